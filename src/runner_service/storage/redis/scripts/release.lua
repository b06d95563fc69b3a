-- Gives an execution up; returns 1. One that is in none of the states it should be in is kept: then it returns 0.
-- KEYS: record. ARGV: replica, lowest token of the next claim, then the states; none for any
local state = #ARGV > 2 and redis.call('HGET', KEYS[1], 'state')
if state then
  local is_expected = false
  for i = 3, #ARGV do is_expected = is_expected or ARGV[i] == state end
  if not is_expected then return 0 end
end
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner')
  if ARGV[2] ~= '0' then redis.call('HSET', KEYS[1], 'floor', ARGV[2]) end
end
return 1
