-- ARGV: 2 at most of each kind, 3 retention, 4 failure of a submission that was too late, 5 of a job that is too old, 6 of
-- a job whose workers vanished, 7 deaths after which a job is isolated, 8 the node that ticks, 9 after how long a silence
-- another may, 10 from how long a silence on the store was away, 11 how many leases in a row are given for that, 12 the number
-- of the news of which the node heard last, 13 how many nodes stand by, 14 for how long each does after it has asked, 15 on: for each of
-- several draws of jitter, what to do after each number of crashes.
-- Answers two things. Numbers: promoted, lapsed, failed, expired, how many fewer jobs are in lanes than are queued, extended, news
-- (for how long the store was away (0: it was not), the number of these news (0: there are none), how many leases turned out to
-- have been taken from a worker that lives), how many records could not be read; to a node that is to leave the
-- ticks to another one, how many workers there are to share the wait, and whether this node stands by. And which record could
-- not be read.
local most, retention = tonumber(ARGV[2]), tonumber(ARGV[3])
local most_graces = tonumber(ARGV[11])
local promoted, lapsed, failed, expired, extended = 0, 0, 0, 0, 0
-- When a record that cannot be read is looked at again.
local PUT_OFF = 600000

-- One node ticks for the cluster: the one that did last, until it has been silent. A time of the last tick that lies far
-- in the future says that the clock was put back.
local last = call('HMGET', P .. 'tick', 'node', 'at', 'back', 'outage', 'away', 'told', 'revived')
local silence = last[2] and now - last[2]
local was_here = silence and math.abs(silence) < tonumber(ARGV[10])
-- A few nodes stand by, and ask often enough to take over before the silence looks like an outage. One that asks no more
-- leaves its place to the next that asks.
local standby = P .. 'tick:standby'
if was_here and last[1] and last[1] ~= ARGV[8] and silence < tonumber(ARGV[9]) then
  local until_then = now + tonumber(ARGV[14])
  call('ZREMRANGEBYSCORE', standby, '-inf', now_text)
  call('ZREMRANGEBYSCORE', standby, '(' .. whole(until_then), '+inf')
  local stands_by = call('ZSCORE', standby, ARGV[8]) or call('ZCARD', standby) < tonumber(ARGV[13])
  if stands_by then call('ZADD', standby, until_then, ARGV[8]) end
  return { { call('ZCOUNT', P .. 'workers', now_text, '+inf'), stands_by and 1 or 0 }, '' }
end
if last[1] ~= ARGV[8] then call('ZREM', standby, ARGV[8]) end
-- When the store was last found again after a silence.
local back = tonumber(last[3])
-- News are told until a node says that it has heard them. The caller that finds an outage has often timed out already.
local number, away, told = tonumber(last[4]) or 0, tonumber(last[5]) or 0, tonumber(last[6]) or 0
local before = number
if number ~= 0 and last[4] == ARGV[12] then
  number, away, told = 0, 0, 0
  call('HDEL', P .. 'tick', 'outage', 'away', 'told')
end
local revived = tonumber(last[7]) or 0
local away_now = not was_here and silence and silence > 0 and silence or 0
if away_now > 0 or revived > 0 then
  -- Whoever has heard only a part must not take the whole for that part.
  number, away, told = math.max(now, before + 1, tonumber(ARGV[12]) + 1), away + away_now, told + revived
  call('HSET', P .. 'tick', 'outage', whole(number), 'away', whole(away), 'told', whole(told))
  call('HDEL', P .. 'tick', 'revived')
end
if not was_here then
  back = now
  call('HSET', P .. 'tick', 'back', now_text)
end
call('HSET', P .. 'tick', 'node', ARGV[8], 'at', now_text)

local function due(index)
  -- What came before may have taken jobs out of it.
  catch_up()
  return call('ZRANGEBYSCORE', P .. index, '-inf', now_text, 'LIMIT', 0, most)
end

-- Works on what is due in an index, one by one. A record that cannot be read is left as it is and looked at again later, so
-- that it keeps no other from its turn; an entry behind which there is nothing any more is taken out.
local unreadable, which = 0, ''
local function each_due(index, find, work)
  for at, id in ipairs(due(index)) do
    local problem = try(function()
      local record = find(id)
      if not record then
        call('ZREM', P .. index, id)
        return
      end
      work(record, at)
      -- The next one of the same worker must not find it there.
      catch_up()
    end)
    if problem then
      unreadable = unreadable + 1
      which = index .. ' ' .. id .. ': ' .. problem
      call('ZADD', P .. index, now + PUT_OFF, id)
    end
  end
end

-- The job, unless it is in another state than the index is for. One in a state that only a newer version knows is as one that
-- cannot be read: nothing is done with it.
local function job_in(state)
  return function(id)
    local job = load(id)
    if not job then return nil end
    if state and STATES[job.f.s] and job.f.s ~= state then return nil end
    local broken = broken_field(job, job.f.s == 'r') or no_number(job.f, { 'nt' })
    if broken then refuse(id, 'field ' .. broken) end
    return job
  end
end

local function sub_and_job(id)
  local sub = load_submission(id)
  local job = sub and job_in(nil)(sub.j)
  return job and { sub = sub, job = job }
end

each_due('y', sub_and_job, function(found)
  local sub, job = found.sub, found.job
  if has_ended(sub, job) then
    -- It ended in time; its deadline no longer matters, also if it is redriven.
    call('ZREM', P .. 'y', sub.id)
    call('HDEL', P .. 's:' .. sub.id, 'd')
  else
    end_apart(sub, job, 'e', retention, ARGV[4])
    if job.f.s == 'f' then failed = failed + 1 end
  end
end)

each_due('z', job_in(nil), function(job)
  if is_terminal(job.f.s) then
    local removed, gone = forget(job, most)
    expired = expired + removed + (gone and 1 or 0)
  elseif job.f.x then
    finish_job(job, 'x', retention)
    save(job)
  else
    fail_job(job, ARGV[5], retention)
    save(job)
    failed = failed + 1
  end
end)

-- Takes the job back from a worker that died. The attempt does not count, for the job did not fail; a death does, unless the
-- checkpoint moved forward under this lease, for then the job gets on. A job beside which the second worker died is
-- isolated. It is blamed only for a crash while it was alone, and then waits before it meets the next worker.
local function take_back(job, alone, steps)
  if job.f.x then return finish_job(job, 'x', retention) end
  local delay, before = 0, { D = job.f.D, C = job.f.C, u = job.f.u }
  if job.f.cf ~= job.f.f then
    put(job, 'D', tonumber(job.f.D or 0) + 1)
    if tonumber(job.f.D) >= tonumber(ARGV[7]) then put(job, 'u', 1) end
    if alone then
      put(job, 'C', tonumber(job.f.C or 0) + 1)
      local delays = {}
      for step in string.gmatch(steps, '[^,]+') do delays[#delays + 1] = tonumber(step) end
      delay = delays[math.min(#delays, tonumber(job.f.C))]
    end
  end
  if delay < 0 then
    -- The attempt stays: the client sees that it was tried.
    fail_job(job, ARGV[6], retention)
    failed = failed + 1
  else
    put(job, 'a', math.max(0, tonumber(job.f.a) - 1))
    note_taken_back(job, before)
    wait_again(job, delay)
  end
end

-- Whether its worker held nothing beside the job; the jobs that it did hold remember it.
local function was_alone(job)
  local alone = not job.f.W
  for _, other in ipairs(call('SMEMBERS', P .. 'r:' .. job.f.w)) do
    if other ~= job.id then
      call('HSET', P .. 'j:' .. other, 'W', 1)
      alone = false
    end
  end
  return alone
end

-- Loaded one by one: taking back the one before may have marked this one.
each_due('run', job_in('r'), function(job, at)
  if is_given_grace(job, back, most_graces) then
    extended = extended + 1
  else
    take_back(job, was_alone(job), ARGV[15 + (at - 1) % (#ARGV - 14)])
    save(job)
    lapsed = lapsed + 1
  end
end)

each_due('delayed', job_in('d'), function(job)
  leave(job)
  put(job, 'Q', now_text)
  enqueue(job)
  save(job)
  promoted = promoted + 1
end)

for _, member in ipairs(due('ie')) do
  call('DEL', P .. 'i:' .. member)
  call('ZREM', P .. 'ie', member)
end

-- Holders whose last submission a node of before removed. Each is looked at once a minute.
for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'holders', '-inf', whole(now - 60000), 'LIMIT', 0, most)) do
  if call('EXISTS', P .. 'l:' .. name) == 1 then
    call('ZADD', P .. 'holders', now_text, name)
  else
    call('ZREM', P .. 'holders', name)
  end
end

for _, name in ipairs(due('values:end')) do
  call('DEL', P .. 'value:' .. name)
  call('ZREM', P .. 'values', name)
  call('ZREM', P .. 'values:end', name)
end

for _, name in ipairs(due('windows')) do
  call('DEL', P .. 'window:' .. name)
  call('ZREM', P .. 'windows', name)
end

-- Days of which nobody is told any more: see `lua/ledger.lua`.
local today = math.floor(now / 86400000)
local function forget_days(index, kept, ...)
  for _, day in ipairs(call('ZRANGEBYSCORE', P .. index, '-inf', whole(today - kept - 1), 'LIMIT', 0, most)) do
    for i = 1, select('#', ...) do call('UNLINK', P .. select(i, ...) .. day) end
    call('ZREM', P .. index, day)
  end
end
forget_days('days', 400, 'day:', 'spent:')
forget_days('chargeddays', 30, 'charged:')

-- Tags that virtual time has passed say nothing any more, unless a running job may still settle.
for tier = 0, 2 do
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'f:' .. tier, '-inf', clock('v' .. tier), 'LIMIT', 0, most)) do
    if tenant(name).r == 0 then call('ZREM', P .. 'f:' .. tier, name) end
  end
end

-- After an outage workers may be about to repeat the claim under which they lost the store.
if now - back >= 600000 then
  for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', now - 600000, 'LIMIT', 0, most)) do
    call('ZREM', P .. 'workers', worker)
    call('DEL', P .. 'k:' .. worker)
  end
end
call('ZREMRANGEBYSCORE', P .. 'abilities', '-inf', now - 600000)

-- Jobs that are queued as earlier versions did it are in no lane: the caller looks for them faster, as long as it finds any.
local function sum(numbers)
  local all = 0
  for _, number in ipairs(numbers) do all = all + (tonumber(number) or 0) end
  return all
end
flush()
local old = math.max(0, sum(call('HMGET', P .. 'n', 'q0', 'q1', 'q2')) - sum(call('HVALS', P .. 'lanes')))
return { { promoted, lapsed, failed, expired, old, extended, away, number, told, unreadable }, which }
