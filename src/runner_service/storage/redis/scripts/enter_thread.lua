-- Returns the token with which the owner of an execution writes a thread, above all before; false if it is not the owner.
-- KEYS: token of the thread, record of the execution. ARGV: owner token
if (redis.call('HGET', KEYS[2], 'token') or '0') ~= ARGV[1] then return false end
local new = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') + 1, tonumber(ARGV[1]))
new = string.format('%.0f', new)
redis.call('SET', KEYS[1], new)
return new
