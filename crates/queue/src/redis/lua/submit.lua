-- ARGV: 2 submission, 3 job, 4 tenant, 5 dedupe key, 6 unmoving JSON, 7 tier, 8 after how long it is too late, 9 estimated seconds,
-- 10 most running, 11 most waiting of the tenant as far as the caller knows, 12 metadata JSON, 13 idempotency key, 14 digest of the body, 15 blob,
-- 16 engine, 17 dedupe ttl, 18 retention, 19 idempotency ttl, 20 greatest age, 21 most waiting of all, 22 class, 23 most
-- submissions of the tenant, 24 of all tenants, 25 number of these up to which shares are not looked at. Empty: absent.
local A = function(i) return ARGV[i] ~= '' and ARGV[i] or nil end
local id, job_id, name, work = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local retention = tonumber(ARGV[18])
-- Room that the job's end needs (charge, result, longer names), so that a full Redis has more of it with each job that is done. JSON
-- may end in blanks; `shorten` takes them off.
local SET_ASIDE = string.rep(' ', 384)

local function adopted(job)
  return blob_of(job) == ARGV[15] and 1 or 0
end

local function replay(sub)
  local job = load_any(sub)
  return { 'replayed', adopted(job), view(sub, job, position(job)) }
end

local known = load_submission(id)
if known then
  if known.t ~= name then return { 'taken' } end
  return replay(known)
end
local idempotency = A(13) and (P .. 'i:' .. name .. ':' .. ARGV[13])
if idempotency then
  local stored = call('GET', idempotency)
  if stored then
    local earlier, expires, digest = string.match(stored, '^(.-)|(.-)|(.*)$')
    if tonumber(expires) > now then
      local sub = load_submission(earlier)
      if sub then
        if digest ~= ARGV[14] then return { 'conflict' } end
        return replay(sub)
      end
    end
  end
end

local job, cached, attached
local found = call('HGET', P .. 'w', work)
local candidate = found and load(found)
-- One that cannot be read does no work, and answers nobody.
if candidate and not broken_as_a_whole(candidate) then
  if candidate.f.s == 'c' then
    if tonumber(candidate.f.F) + tonumber(ARGV[17]) > now then job, cached = candidate, true end
  elseif not is_terminal(candidate.f.s) and not candidate.f.x then
    job, attached = candidate, true
  end
end

if A(23) and call('ZCARD', P .. 'l:' .. name) >= tonumber(ARGV[23]) then return { 'too_many_remembered' } end
if A(24) then
  -- The rule of `verbatim_admission::Holdings`.
  local most, total = tonumber(ARGV[24]), tonumber(call('HGET', P .. 'n', 'subs') or 0)
  if total >= most then return { 'store_limit' } end
  if total >= tonumber(ARGV[25]) then
    local own, holders = call('ZCARD', P .. 'l:' .. name), call('ZCARD', P .. 'holders')
    if not call('ZSCORE', P .. 'holders', name) then holders = holders + 1 end
    local share = holders == 1 and tonumber(ARGV[25]) or math.max(1, math.floor(most / holders))
    if own >= share then return { 'store_share' } end
  end
end
local whose = tenant(name)
local most_running, most_waiting = caps_of(name)
most_running, most_waiting = strictest(most_running, tonumber(ARGV[10])), strictest(most_waiting, tonumber(ARGV[11]))
if not job then
  -- Repeated after its ticket was removed: the job that it made stays as it is.
  if call('EXISTS', P .. 'j:' .. job_id) == 1 then return { 'made' } end
  if A(21) then
    local waiting = 0
    for _, amount in ipairs(call('HMGET', P .. 'n', 'q0', 'q1', 'q2', 'd')) do
      waiting = waiting + (tonumber(amount) or 0)
    end
    if waiting >= tonumber(ARGV[21]) then return { 'queue_full' } end
  end
  if most_waiting and whose.w >= most_waiting then return { 'tenant_full' } end
end

-- From here on it writes.
if whose.mr ~= most_running or whose.mq ~= most_waiting then
  whose.mr, whose.mq, whose.changed = most_running, most_waiting, true
  review(name)
end

local first_seq = 0
if cached then
  first_seq = job.f.ls
  local until_then = math.max(tonumber(job.f.X), now + retention)
  put(job, 'X', until_then)
  call('ZADD', P .. 'z', until_then, job.id)
elseif attached then
  if tonumber(job.f.p) < tonumber(ARGV[7]) then
    if job.f.s == 'q' then
      leave(job)
      put(job, 'p', ARGV[7])
      enqueue(job)
    else
      put(job, 'p', ARGV[7])
    end
  end
else
  job = { id = job_id, f = {}, set = {}, at = 0 }
  local tail = clock('tail') + 1
  set_clock('tail', tail)
  put(job, 't', name)
  put(job, 'k', work)
  put(job, 'p', ARGV[7])
  put(job, 'K', ARGV[22])
  put(job, 'o', tail)
  put(job, 'e', ARGV[9])
  put(job, 'c', now_text)
  put(job, 'z', now + tonumber(ARGV[20]))
  put(job, 'Q', now_text)
  put(job, 'a', 0)
  put(job, 'f', 0)
  put(job, 'g', ARGV[16])
  put(job, 'st', 'queued')
  put(job, 'nl', 0)
  put(job, 'nt', 0)
  if ARGV[15] ~= blob_of(job) then put(job, 'b', ARGV[15]) end
  call('SET', P .. 'd:' .. job_id, ARGV[6] .. SET_ASIDE)
  call('HSET', P .. 'w', work, job_id)
  call('ZADD', P .. 'z', job.f.z, job_id)
  enqueue(job)
  note_queued(job)
end

local sub = { j = job.id, t = name, c = now, f = first_seq }
if cached then sub.h = 1 end
if attached then sub.u = 1 end
if A(8) and not cached then
  sub.d = now + tonumber(ARGV[8])
  call('ZADD', P .. 'y', sub.d, id)
end
if ARGV[12] ~= '{}' then sub.m = ARGV[12] end
if idempotency then
  sub.i = ARGV[13]
  local expires = now + tonumber(ARGV[19])
  call('SET', idempotency, string.format('%s|%.0f|%s', id, expires, ARGV[14]))
  call('ZADD', P .. 'ie', expires, name .. ':' .. ARGV[13])
end
call('HSET', P .. 's:' .. id, unpack(flat_of(sub)))
call('ZADD', P .. 'l:' .. name, 0, id)
call('ZADD', P .. 'holders', 'NX', now_text, name)
if job.f.s1 or call('EXISTS', P .. 'm:' .. job.id) == 1 then
  call('SADD', P .. 'm:' .. job.id, id)
else
  put(job, 's1', id)
end
put(job, 'nl', tonumber(job.f.nl) + 1)
put(job, 'nt', tonumber(job.f.nt) + 1)
count('subs', 1)
save(job)
flush()
sub.id = id
return { cached and 'cached' or attached and 'attached' or 'new', adopted(job), view(sub, job, position(job)) }
