-- Puts right what nodes of an earlier version do beside this one, which queue every job for every worker and know nothing
-- of lanes. Looks at all jobs, a page at a time, again and again: what such a node leaves behind shows in no index. A cursor
-- that means nothing any more, as after a failover, leads to some page all the same, and the next round begins at the first.
--
-- ARGV: 2 how many jobs are a page, then job and class of each that had none on the last page.
-- Answers how many entries were put right; the jobs that have no class, each with what does not move of it; and those that
-- stand in no lane because they cannot be read, each with why; and whether this was the last page of a round.
local righted, without_class, reviewed, unreadable, is_last = 0, {}, {}, {}, 0

for i = 3, #ARGV, 2 do
  local job = load(ARGV[i])
  if job and not job.f.K and not broken_field(job) then
    local queued = job.f.s == 'q'
    if queued then leave_queue(job) end
    put(job, 'K', ARGV[i + 1])
    if queued then
      queue_up(job)
      woken = true
    end
    save(job)
  end
end

local function put_right(job)
  if not (STATES[job.f.s] and tonumber(job.f.p) and job.f.t) then
    unreadable[#unreadable + 1] = job.id .. ': field s, p or t'
    return
  end
  local stands = call('ZSCORE', queue_of(job.f.p, job.f.t, lane_of(job)), job.id)
  if job.f.s ~= 'q' then
    if stands and unqueue(job.f.p, job.f.t, lane_of(job), job.id) then righted = righted + 1 end
    return
  end
  local broken = not stands and (broken_field(load(job.id)) or call('EXISTS', P .. 'd:' .. job.id) == 0 and 'd:')
  if broken then
    unreadable[#unreadable + 1] = job.id .. ': field ' .. broken
    return
  end
  unqueue_old(job)
  if not stands then
    queue_up(job)
    save(job)
    righted, woken = righted + 1, true
  end
  -- Where such a node began or ended a job, the tenant may have come to its cap or from it.
  if not reviewed[job.f.t] then review(job.f.t) end
  reviewed[job.f.t] = true
end

local function page(most)
  local found = call('ZSCAN', P .. 'z', call('GET', P .. 'walk') or '0', 'COUNT', most)
  if found[1] == '0' then
    call('DEL', P .. 'walk')
    is_last = 1
  else
    call('SET', P .. 'walk', found[1])
  end
  local holders = {}
  for i = 1, #found[2], 2 do
    local job = load_some(found[2][i], { 's', 't', 'p', 'u', 'K', 'o' })
    -- A tenant whose submissions a node of before took.
    if job and job.f.t and not holders[job.f.t] and call('EXISTS', P .. 'l:' .. job.f.t) == 1 then
      holders[job.f.t] = true
      call('ZADD', P .. 'holders', 'NX', now_text, job.f.t)
    end
    local over = job and (job.f.s == 'c' or job.f.s == 'x')
    if job and not job.f.K and not over and not broken_field(load(job.id)) then
      without_class[#without_class + 1] = { job.id, call('GET', P .. 'd:' .. job.id) or '' }
    elseif job then
      put_right(job)
    end
  end
end

-- Jobs that such a node has ended and forgotten, at the head of lanes that perhaps no worker asks for.
local function heads(most)
  for tier = 0, 2 do
    for _, lane in ipairs(call('SMEMBERS', P .. 'lanes:' .. tier)) do
      while righted < most do
        local name = call('ZRANGE', P .. 'turns:' .. tier .. ':' .. lane, 0, 0)[1]
        local id = name and call('ZRANGE', queue_of(tier, name, lane), 0, 0)[1]
        if not id or stands_rightly(load_some(id, { 's', 'p', 'u', 'K' }), tier, lane) then break end
        unqueue(tier, name, lane, id)
        righted = righted + 1
      end
    end
  end
end

if #ARGV == 2 then
  local most = tonumber(ARGV[2])
  page(most)
  heads(2 * most)
end
flush()
return { righted, without_class, unreadable, is_last }
