-- Tells for each replica whether its lease is not over. KEYS: leases. ARGV: replicas
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = {}
for i = 1, #ARGV do
  local deadline = redis.call('ZSCORE', KEYS[1], ARGV[i])
  alive[i] = (deadline and tonumber(deadline) > now) and 1 or 0
end
return alive
