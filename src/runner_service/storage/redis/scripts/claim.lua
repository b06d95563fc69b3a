-- Makes a replica the owner, if the token is still the one it has read. Returns the new token, or false.
-- The entry without events that it adds fences: ids only grow, so Redis refuses those of earlier tokens.
-- KEYS: record, events. ARGV: replica, token read, seconds to keep a claim without an execution
local stored = redis.call('HMGET', KEYS[1], 'token', 'record', 'owners', 'floor')
local token = stored[1] or '0'
if token ~= ARGV[2] then return false end
local time = redis.call('TIME')
local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local highest, last = string.match(top and top[1] or '0-0', '^(%d+)-(%d+)$')
local lowest = math.max(tonumber(token), tonumber(highest)) + 1
local new = math.max(lowest, tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(stored[4] or '0'))
new = string.format('%.0f', new)
redis.call('XADD', KEYS[2], new .. '-' .. last, 'n', '0')
local owners = (stored[3] and stored[3] .. ' ' or '') .. new .. ':' .. last
redis.call('HSET', KEYS[1], 'token', new, 'owner', ARGV[1], 'n', 0, 'owners', owners)
if not stored[2] then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return new
