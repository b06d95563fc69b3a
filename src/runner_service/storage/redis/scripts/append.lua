-- Appends entries of one execution, all or none. Those that are there already are skipped.
-- KEYS: record, events, journal, values, calls, changes, then outputs
-- ARGV: owner token, other entries than events of this owner so far, last sequence so far, time in s, channel, then the
-- entries
local record, events, journal, values, calls = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local stored = redis.call('HMGET', record, 'token', 'n', 'record')
if not stored[3] and ARGV[6] ~= 'new' then return {'DELETED'} end
if (stored[1] or '0') ~= ARGV[1] then return {'FENCED'} end
local top = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
local last = top and tonumber(string.match(top[1], '-(%d+)$')) or 0
local n, before = tonumber(stored[2] or '0'), tonumber(ARGV[2])
if n < before or last < tonumber(ARGV[3]) then return {'WENT_BACK', n, last} end
local token, finished = ARGV[1] .. '-', '0'
local i, index = 6, before
while i <= #ARGV do
  local kind, size = ARGV[i], tonumber(ARGV[i + 1])
  local a, b, c, d, e, f = unpack(ARGV, i + 2, i + 1 + size)
  if kind == 'events' or kind == 'call' or kind == 'output' then
    local sequence = tonumber(a)
    if sequence > last then
      if kind == 'events' then
        redis.call('XADD', events, token .. a, 'n', b, 'f', c)
      elseif kind == 'call' then
        redis.call('XADD', events, token .. a, 'n', '1', 'f', b)
        redis.call('HSET', calls, c, a)
      else
        local offset = redis.call('APPEND', KEYS[tonumber(e)], f) - #f
        redis.call('XADD', events, token .. a, 'n', '1', 'f', b, 'c', c, 's', d, 'o', offset, 'l', #f)
      end
      last = sequence
    end
  else
    index = index + 1
    if index <= n then kind = 'skipped' end
    if kind == 'late' then
      redis.call('APPEND', KEYS[tonumber(a)], b)
    elseif kind == 'state' then
      redis.call('HSET', record, 'state', a, 'record', b, 'changed', ARGV[4])
      if c == '1' then
        redis.call('DEL', journal)
        redis.call('HDEL', record, 'sealed')
        finished = '1'
      end
    elseif kind == 'value' then
      redis.call('HSET', values, a, b)
    elseif kind == 'unset' then
      redis.call('HDEL', values, a)
    elseif kind == 'journal' then
      redis.call('HSET', journal, a, b)
    elseif kind == 'change' then
      redis.call('RPUSH', KEYS[6], a)
    elseif kind == 'new' then
      redis.call('HSET', record, 'record', a, 'state', b, 'fingerprint', c, 'changed', ARGV[4])
      if d ~= '' then redis.call('HSET', record, 'request', d) end
      if e ~= '' then redis.call('HSET', record, 'sealed', e) end
      redis.call('PERSIST', record)
      redis.call('PERSIST', events)
    end
  end
  i = i + 2 + size
end
redis.call('HSET', record, 'n', math.max(n, index), 'last', string.format('%.0f', last))
redis.call('PUBLISH', ARGV[5], string.format('%.0f:', last) .. finished .. ':' .. ARGV[1])
return {'OK'}
