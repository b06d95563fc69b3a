-- Appends entries of one execution, all or none.
-- KEYS: record, events, journal, values, calls, changes, then outputs
-- ARGV: owner token, entries of this owner so far, entries given, time in s, channel, then the entries
local record, events, journal, values, calls = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local stored = redis.call('HMGET', record, 'token', 'n', 'record', 'last')
if not stored[3] and ARGV[6] ~= 'new' then return {'DELETED'} end
if (stored[1] or '0') ~= ARGV[1] then return {'FENCED'} end
local n, before, given = tonumber(stored[2] or '0'), tonumber(ARGV[2]), tonumber(ARGV[3])
if n < before then return {'WENT_BACK', n} end
local skip = n - before
if skip >= given then return {'OK'} end
local last, finished = stored[4] or '0', '0'
local i, index = 6, 0
while i <= #ARGV do
  local kind, size = ARGV[i], tonumber(ARGV[i + 1])
  local a, b, c, d, e, f = unpack(ARGV, i + 2, i + 1 + size)
  index = index + 1
  if index > skip then
    if kind == 'events' then
      redis.call('XADD', events, a .. '-0', 'n', b, 'f', c)
      last = a
    elseif kind == 'call' then
      redis.call('XADD', events, a .. '-0', 'n', '1', 'f', b)
      redis.call('HSET', calls, c, a)
      last = a
    elseif kind == 'output' then
      local key = KEYS[tonumber(e)]
      local offset = redis.call('APPEND', key, f) - #f
      redis.call('XADD', events, a .. '-0', 'n', '1', 'f', b, 'c', c, 's', d, 'o', offset, 'l', #f)
      last = a
    elseif kind == 'late' then
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
    end
  end
  i = i + 2 + size
end
redis.call('HSET', record, 'n', before + given, 'last', last)
redis.call('PUBLISH', ARGV[5], last .. ':' .. finished .. ':' .. ARGV[1])
return {'OK'}
