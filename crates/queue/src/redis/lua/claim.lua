-- Gives a worker one job: the first of the tenant whose turn it is in the tier whose turn it is. A job that must run alone
-- goes to an idle worker, out of its tenant's turn, and its worker gets nothing beside it.
--
-- ARGV: 2 worker, 3 nonce, 4 idle (1 or 0), 5 lease, 6 patience for what must run alone, 7 retention, 8 failure of a job
-- that is too old, 9 how many of those one claim ends at most. Answers the lease, or nothing.
local worker, nonce = ARGV[2], ARGV[3]
local expires, patience, retention = now + tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- Fields that a lease reads, or that it changes in a way that depends on what they were.
local FIELDS = { 't', 'p', 's', 'z', 'f', 'a', 'S', 'pr', 'ps', 'ns', 'e', 'ls', 'u', 'c', 'dm', 'cp' }

local function lease_of(job)
  local f = job.f
  return { job.id, f.t, f.f, f.n, f.a, f.L, f.c, f.u and 1 or 0, f.dm or '', call('GET', P .. 'd:' .. job.id),
    f.cp and call('GET', P .. 'h:' .. job.id) or '' }
end

-- A repetition of the worker's last claim gets the same lease, if it is still held.
local last = call('HMGET', P .. 'k:' .. worker, 'n', 'j')
if last[1] == nonce then
  local job = load(last[2])
  return job and job.f.s == 'r' and job.f.n == nonce and lease_of(job)
end

call('ZADD', P .. 'workers', expires, worker)
local holding = call('SCARD', P .. 'r:' .. worker)
if holding == 1 and call('HGET', P .. 'j:' .. call('SMEMBERS', P .. 'r:' .. worker)[1], 'u') then return nil end
local idle = ARGV[4] == '1' and holding == 0

-- The first of these whose tenant may have one more running.
local function eligible(ids)
  for _, id in ipairs(ids) do
    if not at_cap(tenant(call('HGET', P .. 'j:' .. id, 't'))) then return id end
  end
end

-- Which job of a tier is next, for this worker.
local function candidate(tier)
  local alone = idle and eligible(call('ZRANGE', P .. 'u:' .. tier, 0, 63))
  if alone then return alone end
  local name = call('ZRANGE', P .. 'a:' .. tier, 0, 0)[1]
  return name and call('ZRANGE', P .. 'q:' .. tier .. ':' .. name, 0, 0)[1]
end

-- Tiers share by weight, every job costing the same; of two that are due, the stronger one is served. Answers the job that
-- is next, its tier, and when in the virtual time of the tiers it begins.
local function next_by_turns()
  local virtual, id, tier, start = clock('tn'), nil, nil, nil
  for each = 2, 0, -1 do
    local due = math.max(virtual, clock('t' .. each))
    if not start or due < start then
      local found = candidate(each)
      if found then id, tier, start = found, each, due end
    end
  end
  return id, tier, start
end

local function charge_tier(tier, start)
  set_clock('tn', start)
  set_clock('t' .. tier, start + ({ [0] = 64, 8, 1 })[tier])
end

-- The tenant pays for the job. Served in turn, virtual time moves on to the job's start; out of turn it does not.
local function charge_tenant(job)
  local tier, name, cost = job.f.p, job.f.t, math.max(1, tonumber(job.f.e))
  put(job, 'ct', tier)
  put(job, 'cc', cost)
  local start = tonumber(call('ZSCORE', P .. 'a:' .. tier, name))
  if not job.f.u then set_clock('v' .. tier, start) end
  if start then
    call('ZADD', P .. 'a:' .. tier, start + cost, name)
  else
    local finish = tonumber(call('ZSCORE', P .. 'f:' .. tier, name) or 0)
    call('ZADD', P .. 'f:' .. tier, math.max(clock('v' .. tier), finish) + cost, name)
  end
end

-- Takes the job out of its queue and gives it to the worker.
local function lease(job)
  leave(job)
  local whose = tenant(job.f.t)
  whose.r = whose.r + 1
  count('r', 1)
  put(job, 's', 'r')
  put(job, 'f', tonumber(job.f.f) + 1)
  put(job, 'n', nonce)
  put(job, 'w', worker)
  put(job, 'L', expires)
  put(job, 'a', tonumber(job.f.a) + 1)
  if not job.f.S then put(job, 'S', now_text) end
  drop(job, 'pr')
  put(job, 'st', 'fetching')
  drop(job, 'ps')
  if job.f.ns then
    drop(job, 'ns')
    call('DEL', P .. 'e:' .. job.id)
  end
  put(job, 'ss', next_seq(job))
  put(job, 'sa', job.f.a)
  put(job, 'sT', now_text)
  call('ZADD', P .. 'run', job.f.L, job.id)
  call('SADD', P .. 'r:' .. worker, job.id)
  save(job)
  call('HSET', P .. 'k:' .. worker, 'n', nonce, 'j', job.id)
  if at_cap(whose) then review(job.f.t) end
end

-- The job that has waited too long for a worker of its own; and whether this worker, which is busy, is the one that is
-- kept for such a job: it gets nothing until it is idle.
local function overdue()
  local since = string.format('(%.0f', now - patience)
  return eligible(call('ZRANGEBYSCORE', P .. 'uq', '-inf', since, 'LIMIT', 0, 64))
end

local function is_kept()
  local reserved = call('HMGET', P .. 'v', 'rw', 'ru')
  if reserved[1] and tonumber(reserved[2]) > now then return reserved[1] == worker end
  call('HSET', P .. 'v', 'rw', worker, 'ru', now + patience)
  return true
end

if idle and call('HGET', P .. 'v', 'rw') == worker then call('HDEL', P .. 'v', 'rw', 'ru') end
local given
for _ = 1, tonumber(ARGV[9]) do
  local id, tier, start = overdue(), nil, nil
  if id and not idle then
    if is_kept() then break end
    id = nil
  end
  if not id then id, tier, start = next_by_turns() end
  if not id then break end
  local job = load_some(id, FIELDS)
  if tonumber(job.f.z) > now then
    if tier then charge_tier(tier, start) end
    charge_tenant(job)
    lease(job)
    given = lease_of(job)
    break
  end
  -- Its time was up before upkeep saw it. Nobody is charged for it.
  job = load(id)
  fail_job(job, ARGV[8], retention)
  save(job)
end
flush()
return given
