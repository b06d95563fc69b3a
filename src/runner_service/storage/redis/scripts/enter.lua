-- Adds an execution to the indexes. KEYS: count, executions, open, the session's or none. ARGV: execution
local key = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not key then key = redis.call('INCR', KEYS[1]) end
for i = 2, #KEYS do redis.call('ZADD', KEYS[i], key, ARGV[1]) end
return key
