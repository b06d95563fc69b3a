-- Counts one more open call of a tenant in a replica, unless all replicas have as many as it may. Returns 1 or 0.
-- KEYS: calls (a hash: replica to number), leases. ARGV: replica, how many it has, limit
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local open = tonumber(ARGV[2])
local calls = redis.call('HGETALL', KEYS[1])
for i = 1, #calls, 2 do
  if calls[i] ~= ARGV[1] then
    local lease = redis.call('ZSCORE', KEYS[2], calls[i])
    if not lease then
      redis.call('HDEL', KEYS[1], calls[i])
    elseif tonumber(lease) > now then
      open = open + tonumber(calls[i + 1])
    end
  end
end
if open >= tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] + 1)
return 1
