-- ARGV: 2 worker, 3 nonce, 4 at most, 5 idle (1 or 0), 6 lease, 7 patience for what must run alone, 8 retention,
-- 9 failure of a job that is too old. Answers a list of leases.
local worker, nonce, most = ARGV[2], ARGV[3], tonumber(ARGV[4])
local expires = now + tonumber(ARGV[6])
local expires_text = whole(expires)
local retention = tonumber(ARGV[8])
local given = {}
local FIELDS = { 't', 'p', 's', 'z', 'f', 'a', 'S', 'pr', 'ps', 'ns', 'e', 'ls', 'u', 'c', 'dm', 'cp' }
-- Tiers known to have a tenant that can be served.
local alive = {}

local function lease_of(job)
  local f = job.f
  return { job.id, f.t, f.f, f.n, f.a, f.L, f.c, f.u and 1 or 0, f.dm or '', call('GET', P .. 'd:' .. job.id),
    f.cp and call('GET', P .. 'h:' .. job.id) or '' }
end

-- A repetition gets what is still held of its first answer.
local last = call('HMGET', P .. 'k:' .. worker, 'n', 'j')
if last[1] == nonce then
  for id in string.gmatch(last[2], '%w+') do
    local job = load(id)
    if job and job.f.s == 'r' and job.f.n == nonce then given[#given + 1] = lease_of(job) end
  end
  return given
end

call('ZADD', P .. 'workers', expires, worker)
local holding = call('SCARD', P .. 'r:' .. worker)
if most == 0 then return given end
if holding == 1 and call('HGET', P .. 'j:' .. call('SMEMBERS', P .. 'r:' .. worker)[1], 'u') then return given end

local function charge(job, tier)
  put(job, 'ct', tier)
  local cost = math.max(1, tonumber(job.f.e))
  put(job, 'cc', cost)
  return cost
end

-- Ends a job whose time was up before upkeep saw it. Nobody is charged for it.
local function ended_by_age(job)
  if tonumber(job.f.z) > now then return false end
  job = load(job.id)
  fail_job(job, ARGV[9], retention)
  save(job)
  return true
end

-- Gives the job, which is in no index any more, to the worker.
local function lease(job)
  local whose = tenant(job.f.t)
  whose.r, whose.w, whose.changed = whose.r + 1, whose.w - 1, true
  count('q' .. job.f.p, -1)
  count('r', 1)
  put(job, 's', 'r')
  put(job, 'f', tonumber(job.f.f) + 1)
  put(job, 'n', nonce)
  put(job, 'w', worker)
  put(job, 'L', expires_text)
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
  later('ZADD', 'run', expires_text, job.id)
  later('SADD', 'r:' .. worker, job.id)
  save(job)
  given[#given + 1] = lease_of(job)
end

-- Takes a job that must run alone. It is served out of turn: charged, but time does not move on with it.
local function take_suspect(id)
  local job = load_some(id, FIELDS)
  if ended_by_age(job) then return end
  local tier, name = job.f.p, job.f.t
  local cost = charge(job, tier)
  call('ZREM', P .. 'u:' .. tier, id)
  call('ZREM', P .. 'uq', id)
  local start = call('ZSCORE', P .. 'a:' .. tier, name)
  if start then
    call('ZADD', P .. 'a:' .. tier, start + cost, name)
  else
    local finish = tonumber(call('ZSCORE', P .. 'f:' .. tier, name) or 0)
    call('ZADD', P .. 'f:' .. tier, math.max(clock('v' .. tier), finish) + cost, name)
  end
  lease(job)
  if at_cap(tenant(name)) then review(name) end
end

-- The first of these whose tenant may have one more running.
local function eligible(ids)
  for _, id in ipairs(ids) do
    if not at_cap(tenant(call('HGET', P .. 'j:' .. id, 't'))) then return id end
  end
end

-- The tenant of each tier that is served next: how many jobs it has, its start tag, and that of the one behind it. While it
-- stays in front, its tag is kept here and written down in the end.
local heads = {}

local function write_down(tier)
  local head = heads[tier]
  if not head then return end
  heads[tier] = nil
  if head.left > 0 then
    call('ZADD', P .. 'a:' .. tier, head.start, head.name)
  else
    call('ZREM', P .. 'a:' .. tier, head.name)
    call('ZADD', P .. 'f:' .. tier, head.start, head.name)
    alive[tier] = nil
  end
end

local function head_of(tier)
  local head = heads[tier]
  if not head then
    local front = call('ZRANGE', P .. 'a:' .. tier, 0, 1, 'WITHSCORES')
    head = { name = front[1], start = tonumber(front[2]), behind = tonumber(front[4]) }
    head.queue = P .. 'q:' .. tier .. ':' .. head.name
    head.left = call('ZCARD', head.queue)
    heads[tier] = head
  end
  return head
end

local function take_from(tier)
  local head = head_of(tier)
  local job = load_some(call('ZPOPMIN', head.queue)[1], FIELDS)
  head.left = head.left - 1
  if ended_by_age(job) then
    if head.left == 0 then write_down(tier) end
    return
  end
  set_clock('v' .. tier, head.start)
  head.start = head.start + charge(job, tier)
  if head.left == 0 or head.behind and head.start >= head.behind then write_down(tier) end
  lease(job)
  if at_cap(tenant(job.f.t)) then
    for other = 0, 2 do write_down(other) end
    review(job.f.t)
    alive = {}
  end
end

-- Tiers share by weight, every job costing the same; the stronger one is served where two are due.
local function next_tier(suspects)
  local best, due
  local virtual = clock('tn')
  for tier = 2, 0, -1 do
    if alive[tier] == nil then alive[tier] = call('EXISTS', P .. 'a:' .. tier) == 1 end
    if suspects[tier] or alive[tier] then
      local start = math.max(virtual, clock('t' .. tier))
      if not due or start < due then best, due = tier, start end
    end
  end
  if not best then return end
  set_clock('tn', due)
  set_clock('t' .. best, due + ({ [0] = 64, 8, 1 })[best])
  return best
end

local idle = ARGV[5] == '1' and holding == 0
local reserved = call('HMGET', P .. 'v', 'rw', 'ru')
local mine = reserved[1] == worker
local overdue = eligible(call('ZRANGEBYSCORE', P .. 'uq', '-inf', string.format('(%.0f', now - tonumber(ARGV[7])), 'LIMIT', 0, 64))
if idle and mine then call('HDEL', P .. 'v', 'rw', 'ru') end
if overdue and idle then
  take_suspect(overdue)
elseif overdue and (mine or not reserved[1] or tonumber(reserved[2]) <= now) then
  -- Busy, and kept for what must run alone: it gets nothing until it is idle.
  if not (mine and tonumber(reserved[2]) > now) then
    call('HSET', P .. 'v', 'rw', worker, 'ru', now + tonumber(ARGV[7]))
  end
  return given
else
  for _ = 1, most do
    local suspects = {}
    if idle and #given == 0 then
      for tier = 0, 2 do suspects[tier] = eligible(call('ZRANGE', P .. 'u:' .. tier, 0, 63)) end
    end
    local tier = next_tier(suspects)
    if not tier then break end
    if suspects[tier] then
      take_suspect(suspects[tier])
      break
    end
    take_from(tier)
  end
end
for tier = 0, 2 do write_down(tier) end
if #given > 0 then
  local ids = {}
  for i, one in ipairs(given) do ids[i] = one[1] end
  call('HSET', P .. 'k:' .. worker, 'n', nonce, 'j', table.concat(ids, ','))
end
flush()
return given
