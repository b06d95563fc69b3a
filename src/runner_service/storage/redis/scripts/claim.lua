-- Makes a replica the owner, if the token is still the one it has read. Returns the new token, or false.
-- KEYS: record. ARGV: replica, token read, seconds to keep a claim without an execution
local stored = redis.call('HMGET', KEYS[1], 'token', 'last', 'record', 'owners', 'floor')
local token = stored[1] or '0'
if token ~= ARGV[2] then return false end
local time = redis.call('TIME')
local new = math.max(tonumber(token) + 1, tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(stored[5] or '0'))
new = string.format('%.0f', new)
local owners = (stored[4] and stored[4] .. ' ' or '') .. new .. ':' .. (stored[2] or '0')
redis.call('HSET', KEYS[1], 'token', new, 'owner', ARGV[1], 'n', 0, 'owners', owners)
if not stored[3] then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return new
