-- Gives an execution up. KEYS: record. ARGV: replica, lowest token of the next claim
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner')
  if ARGV[2] ~= '0' then redis.call('HSET', KEYS[1], 'floor', ARGV[2]) end
end
return 1
