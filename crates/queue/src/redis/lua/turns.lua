-- Whose turn it is: the queued jobs of each tenant by lane, and the tenants by what they had. A lane holds the jobs of one
-- class, or with a `!` before it those of the class that must run alone.
--
-- Start-time fair queueing (Goyal, Vin and Cheng, 1996), charged in audio seconds. A tenant with queued jobs that is below
-- its cap stands in `turns:<tier>` under its start tag, and under the same tag in `turns:<tier>:<lane>` for each lane in
-- which it has jobs, so that a worker finds whose turn it is among those that it can serve. Every other tenant keeps its
-- finish tag in `f`.
-- Lanes with queued jobs, at most: a claim looks at each of them. Twice the classes that are told apart.
local MOST_LANES = 128

local function lane_of(job)
  return (job.f.u and '!' or '') .. (job.f.K or '*')
end

local function queue_of(tier, name, lane)
  return P .. 'queue:' .. tier .. ':' .. name .. ':' .. lane
end

local function lanes_of(tier, name)
  return call('SMEMBERS', P .. 'lanes:' .. tier .. ':' .. name)
end

local function stand(tier, name, lane, tag)
  call('ZADD', P .. 'turns:' .. tier .. ':' .. lane, tag, name)
  call('SADD', P .. 'lanes:' .. tier, lane)
end

local function stand_no_more(tier, name, lane)
  local turns = P .. 'turns:' .. tier .. ':' .. lane
  call('ZREM', turns, name)
  if call('EXISTS', turns) == 0 then call('SREM', P .. 'lanes:' .. tier, lane) end
end

-- The tag of a tenant, and whether that is its start tag, for it can be served.
local function tag_of(tier, name)
  local start = tonumber(call('ZSCORE', P .. 'turns:' .. tier, name))
  if start then return start, true end
  return tonumber(call('ZSCORE', P .. 'f:' .. tier, name)), false
end

local function set_tag(tier, name, tag, active)
  if active then
    call('ZADD', P .. 'turns:' .. tier, tag, name)
    for _, lane in ipairs(lanes_of(tier, name)) do stand(tier, name, lane, tag) end
  else
    call('ZADD', P .. 'f:' .. tier, tag, name)
  end
end

local function activate(tier, name)
  if at_cap(tenant(name)) or call('EXISTS', P .. 'lanes:' .. tier .. ':' .. name) == 0 then return end
  local tag, active = tag_of(tier, name)
  if active then return end
  call('ZREM', P .. 'f:' .. tier, name)
  set_tag(tier, name, math.max(clock('v' .. tier), tag or 0), true)
end

local function deactivate(tier, name)
  local tag, active = tag_of(tier, name)
  if not active then return end
  call('ZREM', P .. 'turns:' .. tier, name)
  for _, lane in ipairs(lanes_of(tier, name)) do stand_no_more(tier, name, lane) end
  set_tag(tier, name, tag, false)
end

-- After the running jobs or the caps of a tenant have changed.
function review(name)
  for tier = 0, 2 do
    if at_cap(tenant(name)) then deactivate(tier, name) else activate(tier, name) end
  end
end

-- Puts a job into its queue. A class too many is told apart no longer: its jobs are offered to every worker.
function queue_up(job)
  local tier, name = job.f.p, job.f.t
  if call('HEXISTS', P .. 'lanes', lane_of(job)) == 0 and call('HLEN', P .. 'lanes') >= MOST_LANES then put(job, 'K', '*') end
  local lane = lane_of(job)
  call('ZADD', queue_of(tier, name, lane), job.f.o, job.id)
  call('HINCRBY', P .. 'lanes', lane, 1)
  local new = call('SADD', P .. 'lanes:' .. tier .. ':' .. name, lane) == 1
  local tag, active = tag_of(tier, name)
  if not active then
    activate(tier, name)
  elseif new then
    stand(tier, name, lane, tag)
  end
end

-- Takes a job out of its queue, and a tenant without jobs out of its turn. Answers whether it was there.
function unqueue(tier, name, lane, id)
  local queue = queue_of(tier, name, lane)
  if call('ZREM', queue, id) == 0 then return false end
  if call('HINCRBY', P .. 'lanes', lane, -1) == 0 then call('HDEL', P .. 'lanes', lane) end
  if call('EXISTS', queue) == 0 then
    stand_no_more(tier, name, lane)
    call('SREM', P .. 'lanes:' .. tier .. ':' .. name, lane)
    if call('EXISTS', P .. 'lanes:' .. tier .. ':' .. name) == 0 then deactivate(tier, name) end
  end
  return true
end

-- Whether the job is queued in this lane: one that a node of an earlier version ended or moved still stands where it was.
local function stands_rightly(job, tier, lane)
  return job and job.f.s == 'q' and tonumber(job.f.p) == tier and lane_of(job) == lane
end

-- The same for a job that a node of an earlier version queued, where every worker got every job. It may be in both.
local function unqueue_old(job)
  local tier, name = job.f.p, job.f.t
  if call('EXISTS', P .. 'q:' .. tier .. ':' .. name, P .. 'u:' .. tier) == 0 then return end
  call('ZREM', P .. 'u:' .. tier, job.id)
  call('ZREM', P .. 'uq', job.id)
  local queue = P .. 'q:' .. tier .. ':' .. name
  call('ZREM', queue, job.id)
  if call('EXISTS', queue) == 1 then return end
  local tag = call('ZSCORE', P .. 'a:' .. tier, name)
  if tag then
    call('ZREM', P .. 'a:' .. tier, name)
    if not select(2, tag_of(tier, name)) then set_tag(tier, name, tag, false) end
  end
end

function leave_queue(job)
  unqueue(job.f.p, job.f.t, lane_of(job), job.id)
  unqueue_old(job)
end

-- The tenant pays for a job that is given. Virtual time moves on to the start of the job, and never back: a tenant that
-- no worker could serve for a while has not saved up turns.
function charge(job)
  local tier, name, cost = job.f.p, job.f.t, math.max(1, tonumber(job.f.e))
  local tag, active = tag_of(tier, name)
  local start = math.max(clock('v' .. tier), tag or 0)
  set_clock('v' .. tier, start)
  set_tag(tier, name, start + cost, active)
  put(job, 'ct', tier)
  put(job, 'cc', cost)
end

-- Adds to what the tenant was charged for a claim: less than nothing gives back.
function settle(job, actual)
  local tier, difference = job.f.ct, actual - tonumber(job.f.cc)
  if difference == 0 then return end
  local virtual = clock('v' .. tier)
  local tag, active = tag_of(tier, job.f.t)
  set_tag(tier, job.f.t, math.max(virtual, (tag or virtual) + difference), active)
end

-- Jobs ahead of a queued one: those of stronger tiers, those before it of its own tenant, and as many of the other
-- tenants' as they will be served in turn. Exact for one tenant.
function position(job)
  local tier, name = tonumber(job.f.p), job.f.t
  if job.f.s ~= 'q' or not (tier and name and tonumber(job.f.o)) then return -1 end
  local depth = call('HMGET', P .. 'n', 'q0', 'q1', 'q2')
  local ahead = 0
  for stronger = tier + 1, 2 do ahead = ahead + (tonumber(depth[stronger + 1]) or 0) end
  local rank, own = 0, 0
  for _, lane in ipairs(lanes_of(tier, name)) do
    rank = rank + call('ZCOUNT', queue_of(tier, name, lane), '-inf', '(' .. job.f.o)
    own = own + call('ZCARD', queue_of(tier, name, lane))
  end
  local others = math.max(0, (tonumber(depth[tier + 1]) or 0) - own)
  local active = call('ZCARD', P .. 'turns:' .. tier)
  if select(2, tag_of(tier, name)) then active = active - 1 end
  return ahead + rank + math.min(others, (rank + 1) * active)
end

-- A worker that can do what the digest stands for is there until then. What it stands for is remembered longer than any
-- worker is silent; workers say it again when it has been forgotten.
local ABILITIES_KEPT = 24 * 3600 * 1000
function is_there(digest, until_then)
  call('ZADD', P .. 'abilities', 'GT', until_then, digest)
  call('PEXPIRE', P .. 'abilities:' .. digest, ABILITIES_KEPT)
end

-- Whether a worker that is there may be given jobs of the class. Workers that can do the same share one entry.
local served = {}
function is_served(class)
  if served[class] == nil then
    served[class] = false
    for _, digest in ipairs(call('ZRANGEBYSCORE', P .. 'abilities', string.format('(%.0f', now), '+inf')) do
      if digest == '*' or call('SISMEMBER', P .. 'abilities:' .. digest, class) == 1 then served[class] = true end
    end
  end
  return served[class]
end
