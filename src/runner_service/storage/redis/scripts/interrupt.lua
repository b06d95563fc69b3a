-- Sets an execution to INTERRUPTED, if it is in one of the active states.
-- KEYS: record, events. ARGV: the new state, time in s, the channel, then the active states
local stored = redis.call('HMGET', KEYS[1], 'state', 'token')
for i = 4, #ARGV do
  if stored[1] == ARGV[i] then
    redis.call('HSET', KEYS[1], 'state', ARGV[1], 'changed', ARGV[2])
    local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
    local last = top and string.match(top[1], '-(%d+)$') or '0'
    redis.call('PUBLISH', ARGV[3], last .. ':0:' .. (stored[2] or '0'))
    return 1
  end
end
return 0
