-- Gives a worker one job: the first of the tenant whose turn it is in the tier whose turn it is, among the lanes that the
-- worker can serve. An isolated job goes to an idle worker, which then gets nothing beside it. A busy worker to which one
-- would go is reserved instead: it gets nothing until it is idle, and then an isolated job.
--
-- ARGV: 2 worker, 3 nonce, 4 idle (1 or 0), 5 lease, 6 digest of what the worker can do (`*`: everything), 7 one in so many
-- workers may be reserved, 8 retention, 9 failure of a job that is too old, 10 how many of those one claim ends at most.
-- Answers the lease; nothing; or `abilities` where the digest is not known.
local worker, nonce, digest = ARGV[2], ARGV[3], ARGV[6]
local expires, retention = now + tonumber(ARGV[5]), tonumber(ARGV[8])
-- Fields that a lease reads, or that it changes in a way that depends on what they were.
local FIELDS = { 't', 'p', 's', 'z', 'f', 'a', 'S', 'pr', 'ps', 'ns', 'e', 'ls', 'u', 'c', 'dm', 'cp', 'ck', 'K', 'k', 'nl', 'o' }

-- The first of what a lease is made from that cannot be read.
local function broken_to_workers(job, held)
  local broken = broken_field(job, held) or no_number(job.f, { 'c' })
  return broken or call('EXISTS', P .. 'd:' .. job.id) == 0 and 'd:' or nil
end

-- The checkpoint that covers more of the audio: ours, with its segments beside it, or that of a node of before, which knows
-- nothing of ours. In `h:` the segments come behind the position.
local function checkpoint_of(job)
  local old = job.f.cp and call('GET', P .. 'h:' .. job.id) or ''
  local mark, millis = kept_checkpoint(job)
  if not mark or millis < tonumber(string.match(old, '"position_ms":(%d+)') or 0) then return old, {} end
  local kept = call('LRANGE', P .. 'hs:' .. job.id, 0, -1)
  return table.remove(kept, 1), kept
end

local function lease_of(job)
  local f, head, segments = job.f, checkpoint_of(job)
  return { job.id, f.t, f.f, f.n, f.a, f.L, f.c, f.u and 1 or 0, f.dm or '', call('GET', P .. 'd:' .. job.id), head, segments }
end

-- A repetition of the worker's last claim gets the same lease, if it is still held: also one that was taken back while the
-- worker was cut off, for it lives, if nobody has taken the job since.
local last = call('HMGET', P .. 'k:' .. worker, 'n', 'j', 'd')
if last[1] == nonce then
  local job = load(last[2])
  -- One that cannot be read is nobody's: upkeep says so when the lease has lapsed.
  if not job or broken_to_workers(job, true) then return nil end
  local held, fence = job.f.s == 'r' and job.f.n == nonce, fence_taken_back(job, nonce)
  if not held and fence then held = is_held_again(job, fence, nonce) end
  flush()
  return held and lease_of(job)
end

if digest ~= '*' and call('EXISTS', P .. 'abilities:' .. digest) == 0 then return 'abilities' end
if last[3] ~= digest then call('HSET', P .. 'k:' .. worker, 'd', digest) end
call('ZADD', P .. 'workers', expires, worker)
is_there(digest, expires)
local holding = call('SCARD', P .. 'r:' .. worker)
if holding == 1 and call('HGET', P .. 'j:' .. call('SMEMBERS', P .. 'r:' .. worker)[1], 'u') then return nil end
local idle = ARGV[4] == '1' and holding == 0

local function is_isolated(lane)
  return string.sub(lane, 1, 1) == '!'
end

-- Lanes that the worker can serve, of those in which a tenant of the tier can be served.
local function lanes_for_worker(tier)
  local lanes = call('SMEMBERS', P .. 'lanes:' .. tier)
  if digest == '*' or #lanes == 0 then return lanes end
  local classes, able = {}, {}
  for i, lane in ipairs(lanes) do classes[i] = is_isolated(lane) and string.sub(lane, 2) or lane end
  for i, yes in ipairs(call('SMISMEMBER', P .. 'abilities:' .. digest, unpack(classes))) do
    if yes == 1 then able[#able + 1] = lanes[i] end
  end
  return able
end

-- A reservation lapses a lease after its worker has asked for the last time: one that only renews may be about to stop.
local function reserve(lane)
  call('HSET', P .. 'reservations', worker, lane)
  call('ZADD', P .. 'reservations:end', expires, worker)
end

local function let_go(whom)
  call('HDEL', P .. 'reservations', whom)
  call('ZREM', P .. 'reservations:end', whom)
end

-- The lane for which a worker is reserved.
local function reserved_lane(whom)
  local lane = call('HGET', P .. 'reservations', whom)
  if not lane then return nil end
  if tonumber(call('ZSCORE', P .. 'reservations:end', whom) or 0) > now then return lane end
  let_go(whom)
end

-- Workers that are reserved, by lane, and how many there are.
local function reservations()
  local by_lane, all = {}, 0
  for _, whom in ipairs(call('HKEYS', P .. 'reservations')) do
    local lane = reserved_lane(whom)
    if lane then by_lane[lane], all = (by_lane[lane] or 0) + 1, all + 1 end
  end
  return by_lane, all
end

-- Whether so many jobs of the lane could begin now, as far as the caps of their tenants go.
local function could_begin(lane, wanted)
  local can = 0
  for tier = 0, 2 do
    for _, name in ipairs(call('ZRANGE', P .. 'turns:' .. tier .. ':' .. lane, 0, wanted - 1)) do
      local whose, jobs = tenant(name), call('ZCARD', queue_of(tier, name, lane))
      can = can + (whose.mr and math.min(jobs, math.max(0, whose.mr - whose.r)) or jobs)
    end
  end
  return can >= wanted
end

-- Whether this busy worker may be reserved for the lane: it has a job for which no worker is, and not too many workers are.
local function may_be_reserved(lane)
  local by_lane, all = reservations()
  local there = call('ZCOUNT', P .. 'workers', string.format('(%.0f', now), '+inf')
  return all < math.max(1, math.floor(there / tonumber(ARGV[7]))) and could_begin(lane, (by_lane[lane] or 0) + 1)
end

-- The tenant of a lane whose turn it is, with its tag. One that is at its cap is there only because a node of an earlier
-- version began a job of it.
local function head_of(tier, lane)
  while true do
    local head = call('ZRANGE', P .. 'turns:' .. tier .. ':' .. lane, 0, 0, 'WITHSCORES')
    if not head[1] or not at_cap(tenant(head[1])) then return head[1], tonumber(head[2]) end
    review(head[1])
  end
end

-- The job of a tier that is next, among lanes that `allowed` lets pass: of the tenant with the smallest tag the first.
local function next_of_tier(tier, allowed)
  local name, tag, lanes
  for _, lane in ipairs(lanes_for_worker(tier)) do
    local who, at = head_of(tier, lane)
    local before = who and (not tag or at < tag or at == tag and who < name)
    if who and (before or who == name) and allowed(lane) then
      if before then name, tag, lanes = who, at, {} end
      lanes[#lanes + 1] = lane
    end
  end
  if not name then return nil end
  local found
  for _, lane in ipairs(lanes) do
    local first = call('ZRANGE', queue_of(tier, name, lane), 0, 0, 'WITHSCORES')
    local place = tonumber(first[2])
    if not found or place < found.place then
      found = { id = first[1], place = place, lane = lane, name = name, tier = tier }
    end
  end
  return found
end

-- Tiers share by weight, every job costing the same; of two that are due, the stronger one is served.
local function next_by_turns(allowed)
  local best
  for tier = 2, 0, -1 do
    local start = math.max(clock('tn'), clock('t' .. tier))
    if not best or start < best.start then
      local found = next_of_tier(tier, allowed)
      if found then
        best = found
        best.start = start
      end
    end
  end
  return best
end

local function charge_tier(tier, start)
  set_clock('tn', start)
  set_clock('t' .. tier, start + ({ [0] = 64, 8, 1 })[tier])
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
  put(job, 'l', ARGV[5])
  put(job, 'a', tonumber(job.f.a) + 1)
  if not job.f.S then put(job, 'S', now_text) end
  drop(job, 'pr')
  put(job, 'st', 'fetching')
  drop(job, 'ps')
  if job.f.ns then
    drop(job, 'ns')
    call('DEL', P .. 'e:' .. job.id)
  end
  note_started(job)
  call('ZADD', P .. 'run', job.f.L, job.id)
  call('SADD', P .. 'r:' .. worker, job.id)
  save(job)
  call('HSET', P .. 'k:' .. worker, 'n', nonce, 'j', job.id)
  if at_cap(whose) then review(job.f.t) end
end

-- What is next for this worker.
local reserved = reserved_lane(worker)
local function next_for_worker()
  if idle and reserved then
    local kept = next_by_turns(function(lane) return lane == reserved end)
    if kept then return kept end
  end
  return next_by_turns(function(lane) return idle or not is_isolated(lane) or may_be_reserved(lane) end)
end

if reserved then
  -- It stays so while it is busy and can do what it is reserved for, unless idle workers took that.
  local able = digest == '*' or call('SISMEMBER', P .. 'abilities:' .. digest, string.sub(reserved, 2)) == 1
  if not idle and able and could_begin(reserved, reservations()[reserved]) then
    reserve(reserved)
    return nil
  end
  let_go(worker)
end
local given
for _ = 1, tonumber(ARGV[10]) do
  local turn = next_for_worker()
  if not turn then break end
  if is_isolated(turn.lane) and not idle then
    reserve(turn.lane)
    break
  end
  local job = load_some(turn.id, FIELDS)
  if not stands_rightly(job, turn.tier, turn.lane) or broken_to_workers(job) then
    -- A node of an earlier version ended or moved it, and knows nothing of this queue. Or it cannot be read, and keeps no other
    -- from its turn: upkeep finds it on its walk, and says so.
    unqueue(turn.tier, turn.name, turn.lane, turn.id)
  elseif tonumber(job.f.z) > now then
    charge_tier(turn.tier, turn.start)
    charge(job)
    lease(job)
    given = lease_of(job)
    break
  else
    -- Its time was up before upkeep saw it. Nobody is charged for it.
    job = load(turn.id)
    fail_job(job, ARGV[9], retention)
    save(job)
  end
end
flush()
return given
