-- Sets the token with which the owner of an execution writes a thread, above all before, and returns it.
-- False if another one has entered since the token was read.
-- KEYS: token of the thread. ARGV: the token read (0 if there was none), token of the owner
local stored = redis.call('GET', KEYS[1]) or '0'
if stored ~= ARGV[1] then return false end
local new = string.format('%.0f', math.max(tonumber(stored) + 1, tonumber(ARGV[2])))
redis.call('SET', KEYS[1], new)
return new
