-- Appends an execution to the turns of its session, unless it is there. Returns the first. KEYS: turns. ARGV: execution
if not redis.call('LPOS', KEYS[1], ARGV[1]) then redis.call('RPUSH', KEYS[1], ARGV[1]) end
return redis.call('LINDEX', KEYS[1], 0)
