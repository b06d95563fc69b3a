-- The one queue of a deployment. Tenants take turns by their weights; of a session only the first may run.
-- KEYS: queue (a hash: execution to entry), leases, the prefix of the turns of sessions. Others begin with the first one.
-- ARGV: action, replica, how many that replica may run (0: it takes nothing), its arguments; see `queue.py`
-- Returns the action's answer as a string, how many wait, and for each execution that the replica has to run now:
-- execution, token, milliseconds since it was accepted.
-- An entry is JSON: o(rder), n (tenant), s(ession), t(oken), h(older: it accepted it), p(inned to its holder),
-- at (ms), r(eplica that has it), and st(ate): j(oined, not offered yet), b(ehind another one of its session), w(aits),
-- r(unning), p(arked), i(nterrupted: somebody may go on with it, so it keeps its place).
local queue, leases, sessions = KEYS[1], KEYS[2], KEYS[3]
local action, me, capacity = ARGV[1], ARGV[2], tonumber(ARGV[3])
local counts, tenants, limits = queue .. ':counts', queue .. ':tenants', queue .. ':limits'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local WAITS = {j = true, b = true, w = true}
local taken, gone, positions, readied = {}, {}, {}, {}

local function number(name) return tonumber(redis.call('HGET', counts, name) or '0') end
local function count(name, change)
  if redis.call('HINCRBY', counts, name, change) == 0 then redis.call('HDEL', counts, name) end
end
local function read(id)
  local stored = redis.call('HGET', queue, id)
  return stored and cjson.decode(stored)
end
local function ready_keys(e)
  local some = e.p and (queue .. ':pinned:' .. e.n .. ':' .. e.h) or (queue .. ':free:' .. e.n)
  return queue .. ':ready:' .. e.n, some
end
local function is_alive(replica)
  local deadline = redis.call('ZSCORE', leases, replica)
  return deadline and tonumber(deadline) > now
end

-- The fairness of tenants: the one with the fewest turns, each divided by its weight, is next.
local function set_turns(tenant, turns)
  local text = string.format('%.17g', turns)
  if redis.call('ZCARD', queue .. ':ready:' .. tenant) > 0 then
    redis.call('ZADD', tenants, text, tenant)
    redis.call('HDEL', queue .. ':turns', tenant)
  else
    redis.call('ZREM', tenants, tenant)
    redis.call('HSET', queue .. ':turns', tenant, text)
  end
end
local function turns_of(tenant)
  return tonumber(redis.call('ZSCORE', tenants, tenant) or redis.call('HGET', queue .. ':turns', tenant) or '0')
end
local function limits_of(tenant)
  local running, weight = string.match(redis.call('HGET', limits, tenant) or '-1 1', '(%S+) (%S+)')
  return tonumber(running), tonumber(weight)
end
local function may_run(tenant)
  local running = limits_of(tenant)
  return running < 0 or number('r:' .. tenant) < running
end

local function make_ready(id, e)
  local all, some = ready_keys(e)
  local was_empty = redis.call('ZCARD', all) == 0
  redis.call('ZADD', all, e.o, id)
  redis.call('ZADD', some, e.o, id)
  if was_empty then set_turns(e.n, math.max(turns_of(e.n), number('now'))) end
  readied[id] = true
end
local function make_unready(id, e)
  local all, some = ready_keys(e)
  local index, size = redis.call('ZRANK', all, id), redis.call('ZCARD', all) - 1
  redis.call('ZREM', some, id)
  redis.call('ZREM', all, id)
  if size == 0 then set_turns(e.n, turns_of(e.n)) end
  local position = 1
  while position <= size do  -- those that have moved up to a power of two are told: more would be noise
    if position > index then positions[redis.call('ZRANGE', all, position - 1, position - 1)[1]] = position end
    position = position * 2
  end
end

-- Changes the state of an entry and all that is counted; nil as the state deletes it.
local function move(id, e, state, replica)
  if e.st == 'w' then make_unready(id, e) end
  if WAITS[e.st] then
    count('queued', -1)
    count('q:' .. e.n, -1)
    if not WAITS[state or ''] then gone[id] = state and replica or '' end
  elseif e.st == 'r' then
    count('r:' .. e.n, -1)
    count('R:' .. e.r, -1)
  end
  e.st, e.r = state, replica
  if WAITS[state or ''] then
    count('queued', 1)
    count('q:' .. e.n, 1)
  elseif state == 'r' then
    count('r:' .. e.n, 1)
    count('R:' .. replica, 1)
  end
  if state == 'w' then make_ready(id, e) end
  if state then redis.call('HSET', queue, id, cjson.encode(e)) else redis.call('HDEL', queue, id) end
end
local function is_first(id, e) return e.s == '' or redis.call('LINDEX', sessions .. e.s, 0) == id end
local function remove(id, e)
  move(id, e, nil, '')
  if e.s == '' then return end
  redis.call('LREM', sessions .. e.s, 0, id)
  local head = redis.call('LINDEX', sessions .. e.s, 0)
  local next_entry = head and read(head)
  if next_entry and next_entry.st == 'b' then move(head, next_entry, 'w', '') end
end
local function add(id, tenant, session, token, pinned)
  local order = redis.call('HINCRBY', counts, 'order', 1)
  if session ~= '' and not redis.call('LPOS', sessions .. session, id) then
    redis.call('RPUSH', sessions .. session, id)
  end
  return {o = order, n = tenant, s = session, t = token, h = me, p = pinned, at = now, r = '', st = 'new'}
end

local function room() return capacity - number('R:' .. me) end
local function first_of(tenant)
  local free = redis.call('ZRANGE', queue .. ':free:' .. tenant, 0, 0, 'WITHSCORES')
  local own = redis.call('ZRANGE', queue .. ':pinned:' .. tenant .. ':' .. me, 0, 0, 'WITHSCORES')
  if not free[1] or (own[1] and tonumber(own[2]) < tonumber(free[2])) then return own[1] end
  return free[1]
end
local function run(id, e)
  local tenant, turns = e.n, math.max(turns_of(e.n), number('now'))
  local _, weight = limits_of(tenant)
  redis.call('HSET', counts, 'now', string.format('%.17g', turns))
  move(id, e, 'r', me)
  set_turns(tenant, turns + 1 / weight)
  taken[#taken + 1] = {id, e.t, now - e.at}
end
local function take()
  while room() > 0 do
    local id
    for _, tenant in ipairs(redis.call('ZRANGE', tenants, 0, -1)) do
      id = may_run(tenant) and first_of(tenant)
      if id then break end
    end
    if not id then return end
    run(id, read(id))
  end
end
local function free_elsewhere()
  local free, capacities = 0, redis.call('HGETALL', queue .. ':capacity')
  for i = 1, #capacities, 2 do
    if is_alive(capacities[i]) then
      free = free + math.max(0, capacities[i + 1] - number('R:' .. capacities[i]))
    elseif not redis.call('ZSCORE', leases, capacities[i]) then
      redis.call('HDEL', queue .. ':capacity', capacities[i])
    end
  end
  return free
end

local answer = 'OK'
if capacity > 0 then
  redis.call('HSET', queue .. ':capacity', me, capacity)
elseif action ~= 'withdraw' and action ~= 'restore' then
  redis.call('HDEL', queue .. ':capacity', me)
end

if action == 'join' then  -- execution, tenant, session, token, pinned, may run, weight, may wait, all that may wait
  local id, tenant, session, token = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
  local may_wait, all_may_wait = tonumber(ARGV[11]), tonumber(ARGV[12])
  redis.call('HSET', limits, tenant, ARGV[9] .. ' ' .. ARGV[10])
  take()  -- what has waited longer
  local known = read(id)
  local may_run_running = limits_of(tenant)
  local has_turn = session == '' or (redis.call('LINDEX', sessions .. session, 0) or id) == id
  local has_quota = may_run_running < 0 or number('r:' .. tenant) + number('q:' .. tenant) < may_run_running
  if known and known.t == token then  -- the answer was lost
    if known.st == 'r' and known.r == me then taken[#taken + 1] = {id, token, 0} end
  elseif has_turn and has_quota and room() > 0 then
    run(id, add(id, tenant, session, token, ARGV[8] == '1'))
  else
    local waits = not (has_turn and has_quota and number('queued') < free_elsewhere())
    if waits and may_wait >= 0 and number('q:' .. tenant) >= may_wait then
      answer = 'QUOTA'
    elseif waits and number('queued') >= all_may_wait then
      answer = 'FULL'
    else
      move(id, add(id, tenant, session, token, ARGV[8] == '1'), 'j', '')
    end
  end
elseif action == 'offer' then  -- execution, tenant, session, token, pinned, may run, weight, 1 to stand behind all others
  local id, tenant, session, token = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
  local e = read(id)
  redis.call('HSET', limits, tenant, ARGV[9] .. ' ' .. ARGV[10])
  if e and e.t == token and e.st == 'r' and e.r == me then
    taken[#taken + 1] = {id, token, 0}  -- the answer was lost
  elseif e and (tonumber(e.t) > tonumber(token) or (e.t == token and not WAITS[e.st] and e.r ~= me)) then
    answer = 'GONE'
  elseif not (e and e.t == token and e.h == me and (e.st == 'b' or e.st == 'w')) then
    if e then
      move(id, e, 'j', '')
      gone[id] = nil
      e.t, e.h, e.p = token, me, ARGV[8] == '1'
      if ARGV[11] == '1' then e.o = redis.call('HINCRBY', counts, 'order', 1) end
    else
      e = add(id, tenant, session, token, ARGV[8] == '1')
    end
    move(id, e, is_first(id, e) and 'w' or 'b', '')
  end
  take()
  e = answer == 'OK' and read(id)
  if e and e.st == 'b' then answer = 'BEHIND' end
  if e and e.st == 'w' then answer = tostring(redis.call('ZRANK', ready_keys(e), id) + 1) end
  readied[id] = e and e.st == 'w' and 'told' or nil
elseif action == 'leave' or action == 'park' or action == 'interrupt' then  -- executions
  for i = 4, #ARGV do
    local e = read(ARGV[i])
    if e and ((WAITS[e.st] and e.h == me) or e.r == me) then
      if action == 'leave' then remove(ARGV[i], e) else move(ARGV[i], e, action == 'park' and 'p' or 'i', me) end
    end
  end
  take()
elseif action == 'withdraw' then  -- execution: takes one that waits out of the queue, to be ended by this replica
  local e = read(ARGV[4])
  answer = ''
  if e and WAITS[e.st] and e.st ~= 'j' then
    answer = e.t
    move(ARGV[4], e, 'i', me)
  end
elseif action == 'drop' then  -- pairs of an execution and its token: those that have ended without leaving
  for i = 4, #ARGV, 2 do
    local e = read(ARGV[i])
    if e and e.t == ARGV[i + 1] and (e.st == 'i' or e.st == 'p') then remove(ARGV[i], e) end
  end
  take()
elseif action == 'take' then  -- pairs of a tenant and `<may run> <weight>`
  for i = 4, #ARGV, 2 do redis.call('HSET', limits, ARGV[i], ARGV[i + 1]) end
  take()
elseif action == 'restore' then  -- execution, tenant, session, token: runs here, which a failover of Redis has lost
  local e = read(ARGV[4])
  if not e then
    e = add(ARGV[4], ARGV[5], ARGV[6], ARGV[7], false)
    move(ARGV[4], e, 'r', me)
  elseif WAITS[e.st] and e.h == me then
    move(ARGV[4], e, 'r', me)
  end
elseif action == 'correct' then
  -- 1 if what dead replicas had is to go on, then pairs of an execution of this replica and r if it is admitted, w if not
  local own, lost, entries = {}, {}, redis.call('HGETALL', queue)
  for i = 5, #ARGV, 2 do own[ARGV[i]] = ARGV[i + 1] end
  for i = 1, #entries, 2 do
    local id, e = entries[i], cjson.decode(entries[i + 1])
    local whose = (e.st == 'j' or (e.p and WAITS[e.st])) and e.h or e.r
    local is_dead = ARGV[4] == '1' and whose ~= '' and whose ~= me and not is_alive(whose)
    if e.st == 'p' then
      if e.s ~= '' and redis.call('LLEN', sessions .. e.s) > 1 then lost[#lost + 1] = {id, e.t} end
    elseif is_dead and e.st == 'r' and not e.p then
      move(id, e, 'w', '')
    elseif is_dead or e.st == 'i' then
      if e.st ~= 'i' then move(id, e, 'i', '') end
      lost[#lost + 1] = {id, e.t}
    elseif e.st == 'r' and e.r == me and own[id] ~= 'r' then
      taken[#taken + 1] = {id, e.t, now - e.at}  -- the answer was lost
    end
    if not (own[id] == 'r' and WAITS[e.st] and e.h == me) then own[id] = nil end
  end
  local missing = {}
  for id in pairs(own) do missing[#missing + 1] = id end
  answer = cjson.encode({lost = lost, missing = missing, entries = #entries / 2})
  take()
end

local left = 0
for _, tenant in ipairs(redis.call('ZRANGE', tenants, 0, -1)) do
  if may_run(tenant) then left = left + 1 end
end
for id, why in pairs(readied) do
  local e = why ~= 'told' and read(id)
  if e and e.st == 'w' then positions[id] = redis.call('ZRANK', ready_keys(e), id) + 1 end
end
local has_freed = left > 0 and (action == 'leave' or action == 'park' or action == 'interrupt' or action == 'drop')
if has_freed or next(gone) or next(positions) or next(readied) then
  redis.call('PUBLISH', queue, cjson.encode({gone = gone, positions = positions, ready = left, queued = number('queued')}))
end
return {answer, number('queued'), taken}
