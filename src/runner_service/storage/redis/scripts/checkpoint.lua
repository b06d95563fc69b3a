-- Writes fields of a thread, unless a later owner has written. KEYS: token, hash
-- ARGV: owner token, 1 to keep the values that are there, then fields and values
local highest = redis.call('GET', KEYS[1])
if highest and tonumber(highest) > tonumber(ARGV[1]) then return 0 end
if highest ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
local write = ARGV[2] == '1' and 'HSETNX' or 'HSET'
for i = 3, #ARGV, 2 do redis.call(write, KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
