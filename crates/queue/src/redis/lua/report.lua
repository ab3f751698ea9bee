-- ARGV: 2 job, 3 fence, 4 nonce, 5 progress (empty: unchanged), 6 stage, 7 most events kept, 8 what lies between the numbers
-- of two segments. The checkpoint: 9 it without its segments (JSON; empty: none), 10 milliseconds of audio that it covers,
-- 11 the mark of what it builds on, `digest|segments` (empty: of nothing), 12 how many segments of that stay, 13 the mark of what it is,
-- 14 how long ended jobs are kept, 15 how many segments are new; those. Then index and JSON of each segment that was decoded.
-- Answers whether the lease is held, and -1 where it is and the checkpoint builds on what is not here.
local job = load(ARGV[2])
if not job then return 0 end
if (job.f.s ~= 'r' or job.f.f ~= ARGV[3] or job.f.n ~= ARGV[4]) and not is_held_again(job, ARGV[3], ARGV[4]) then
  flush()
  return 0
end
local broken = broken_field(job, true)
if broken then refuse(job.id, 'field ' .. broken) end
local log, stride = P .. 'e:' .. job.id, tonumber(ARGV[8])

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

local new = tonumber(ARGV[15])
for i = 16 + new, #ARGV, 2 do
  local index = tonumber(ARGV[i])
  if index >= tonumber(job.f.ns or 0) then
    put(job, 'ns', index + 1)
    local seq = segment_seq(index)
    call('ZADD', log, seq, string.format('%.0f|%.0f|{"type":"segment","attempt":%s,"segment":%s}', seq, now, job.f.a, ARGV[i + 1]))
  end
end
local most = tonumber(ARGV[7])
if tonumber(job.f.ns or 0) > most then call('ZREMRANGEBYRANK', log, 0, -most - 1) end
if ARGV[5] ~= '' and (ARGV[5] ~= (job.f.pr or '0') or ARGV[6] ~= job.f.st) then
  put(job, 'pr', ARGV[5])
  put(job, 'st', ARGV[6])
  put(job, 'ep', ARGV[5])
  put(job, 'eg', ARGV[6])
  put(job, 'ps', next_seq(job))
  put(job, 'pT', now_text)
end

-- Writes down the checkpoint, of whose segments only the new ones were sent. Answers whether it could.
local function keep_checkpoint()
  local key, here = P .. 'hs:' .. job.id, kept_checkpoint(job)
  if ARGV[11] == '' then
    call('DEL', key)
    call('RPUSH', key, ARGV[9])
  elseif here == ARGV[11] then
    call('LTRIM', key, 0, ARGV[12])
    call('LSET', key, 0, ARGV[9])
  elseif here == ARGV[13] then
    -- It came before, and its answer was lost.
    call('LSET', key, 0, ARGV[9])
    new = 0
  else
    return false
  end
  -- `unpack` takes some thousands at most.
  for i = 16, 15 + new, 1000 do call('RPUSH', key, unpack(ARGV, i, math.min(i + 999, 15 + new))) end
  call('PEXPIRE', key, math.max(0, tonumber(job.f.z) - now) + tonumber(ARGV[14]) + 86400000)
  if job.f.cp then
    call('DEL', P .. 'h:' .. job.id)
    drop(job, 'cp')
  end
  put(job, 'ck', ARGV[13] .. '|' .. ARGV[10])
  if tonumber(ARGV[10]) > tonumber(job.f.cm or 0) then
    put(job, 'cm', ARGV[10])
    put(job, 'cf', job.f.f)
  end
  return true
end

local lacks = ARGV[9] ~= '' and not keep_checkpoint()
save(job)
flush()
return lacks and -1 or 1
