-- ARGV: 2 job, 3 fence, 4 nonce, 5 progress (empty: unchanged), 6 stage, 7 checkpoint (empty: none), 8 milliseconds
-- of audio that it covers, 9 most events kept, 10 what lies between the numbers of two segments, then index and JSON of
-- each segment. Answers whether the lease is held.
local job = load(ARGV[2])
if not job then return 0 end
if (job.f.s ~= 'r' or job.f.f ~= ARGV[3] or job.f.n ~= ARGV[4]) and not is_held_again(job, ARGV[3], ARGV[4]) then
  flush()
  return 0
end
local broken = broken_field(job, true)
if broken then refuse(job.id, 'field ' .. broken) end
local log, stride = P .. 'e:' .. job.id, tonumber(ARGV[10])

-- The number of a segment follows from that of the attempt's first, so that it can be told when only the transcript is left.
local function segment_seq(index)
  local first = first_segment(job)
  local seq = first and first + stride * index or 0
  local last = tonumber(job.f.ls)
  if seq <= last then
    -- The first one; or more happened between two segments than there is room for.
    put(job, 'sb', string.format('%s:%.0f', job.f.f, last + 1))
    seq = last + 1 + stride * index
  end
  put(job, 'ls', string.format('%.0f', seq))
  news[job.id] = true
  return seq
end

for i = 11, #ARGV, 2 do
  local index = tonumber(ARGV[i])
  if index >= tonumber(job.f.ns or 0) then
    put(job, 'ns', index + 1)
    local seq = segment_seq(index)
    call('ZADD', log, seq, string.format('%.0f|%.0f|{"type":"segment","attempt":%s,"segment":%s}', seq, now, job.f.a, ARGV[i + 1]))
  end
end
local most = tonumber(ARGV[9])
if tonumber(job.f.ns or 0) > most then call('ZREMRANGEBYRANK', log, 0, -most - 1) end
if ARGV[5] ~= '' and (ARGV[5] ~= (job.f.pr or '0') or ARGV[6] ~= job.f.st) then
  put(job, 'pr', ARGV[5])
  put(job, 'st', ARGV[6])
  put(job, 'ep', ARGV[5])
  put(job, 'eg', ARGV[6])
  put(job, 'ps', next_seq(job))
  put(job, 'pT', now_text)
end
if ARGV[7] ~= '' then
  call('SET', P .. 'h:' .. job.id, ARGV[7])
  put(job, 'cp', 1)
  if tonumber(ARGV[8]) > tonumber(job.f.cm or 0) then
    put(job, 'cm', ARGV[8])
    put(job, 'cf', job.f.f)
  end
end
save(job)
flush()
return 1
