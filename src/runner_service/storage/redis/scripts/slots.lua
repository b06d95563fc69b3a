-- Keeps which executions of a tenant are queued (q) and running (r) in each replica. Returns 1 if it may, else 0.
-- KEYS: slots (a hash: execution to q or r and its replica), leases, and to join the turns of the session if it has one
-- ARGV: action, replica, and by the action: join: execution, running, queued (limits; -1 for none), whether there is room
--   admit: execution, running. leave: execution. correct: all executions of the replica, each with q or r
local action, replica, execution = ARGV[1], ARGV[2], ARGV[3]

local function count()
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local leases, running, queued = {}, 0, 0
  local slots = redis.call('HGETALL', KEYS[1])
  for i = 1, #slots, 2 do
    local owner = string.sub(slots[i + 1], 2)
    if not leases[owner] then leases[owner] = redis.call('ZSCORE', KEYS[2], owner) or 'none' end
    if leases[owner] == 'none' and owner ~= replica then
      redis.call('HDEL', KEYS[1], slots[i])
    elseif slots[i] ~= execution and (owner == replica or tonumber(leases[owner]) > now) then
      if string.sub(slots[i + 1], 1, 1) == 'r' then running = running + 1 else queued = queued + 1 end
    end
  end
  return running, queued
end

if action == 'join' then
  local running, queued = count()
  local may_run, may_queue = tonumber(ARGV[4]), tonumber(ARGV[5])
  local has_room = ARGV[6] == '1' and not (KEYS[3] and redis.call('LLEN', KEYS[3]) > 0)
  local runs_at_once = has_room and (may_run < 0 or running + queued < may_run)
  if not runs_at_once and may_queue >= 0 and queued >= may_queue then return 0 end
  redis.call('HSET', KEYS[1], execution, 'q' .. replica)
elseif action == 'admit' then
  local running = count()
  local may_run = tonumber(ARGV[4])
  local is_admitted = may_run < 0 or running < may_run
  redis.call('HSET', KEYS[1], execution, (is_admitted and 'r' or 'q') .. replica)
  return is_admitted and 1 or 0
elseif action == 'leave' then
  if string.sub(redis.call('HGET', KEYS[1], execution) or '', 2) == replica then redis.call('HDEL', KEYS[1], execution) end
else
  local slots = redis.call('HGETALL', KEYS[1])
  for i = 1, #slots, 2 do
    if string.sub(slots[i + 1], 2) == replica then redis.call('HDEL', KEYS[1], slots[i]) end
  end
  for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. replica) end
end
return 1
