-- How jobs and submissions end, and are forgotten: what stays of them, and which blobs nobody needs any more.

-- Lists a blob for deletion: at once, or when its grace is over. What is listed already is never put off by it.
local function discard(blob, at_once)
  call('ZADD', P .. 'garbage', 'LT', at_once and 0 or now_text, blob)
end

-- Makes the job answer no more submissions.
local function forget_work(job)
  if call('HGET', P .. 'w', job.f.k) == job.id then call('HDEL', P .. 'w', job.f.k) end
end

-- What nobody asks of a job that has ended; and what only matters as long as it may be done once more, as a dead letter may.
local OVER = { 'B', 'L', 'Q', 'R', 'W', 'cc', 'ct', 'l', 'n', 'o', 'w', 'z' }
local OVER_FOR_GOOD = { 'C', 'D', 'K', 'cf', 'ck', 'cm', 'cp', 'e', 'u', 'x' }
-- Only a transcript has segments; and how it came about says nothing beside it.
local UNHEARD = { 'ns', 'sb' }
local UNTOLD = { 'eg', 'ep', 'pT', 'ps', 'qa', 'qs', 'qt', 'sa', 'ss' }
local UNTOLD_AT_ONCE = { 'eg', 'ep', 'pT', 'ps', 'qa', 'qs', 'qt', 'sa', 'ss', 'sT' }

-- Takes out of what does not move of a job what is absent (a text has its quotes escaped, so that none can look like it), the
-- trace, which only an attempt goes on with, and the room that was set aside for its end.
local function shorten(job)
  local whole = call('GET', P .. 'd:' .. job.id)
  if not whole then return end
  local short = string.gsub(whole, '"[%w_]+":null,', '')
  short = string.gsub(string.gsub(short, ',"[%w_]+":null', ''), ',"trace":"[%x-]+"', '')
  short = string.match(short, '^(.-) *$')
  if #short < #whole then call('SET', P .. 'd:' .. job.id, short) end
end

-- Ends the job: `c` completed, `f` failed (why in E), `x` cancelled. Its audio goes after its grace, for a store that comes
-- back from before the end runs the job again; the checkpoint goes at once. A dead letter's stay with it.
local function finish_job(job, state, retention)
  leave(job)
  put(job, 's', state)
  count(state, 1)
  if state == 'f' then
    call('ZADD', P .. 'dlq', now_text, job.id)
  else
    discard(blob_of(job))
    if job.f.cp then call('DEL', P .. 'h:' .. job.id) end
    if job.f.ck then call('DEL', P .. 'hs:' .. job.id) end
    drop_all(job, OVER_FOR_GOOD)
    shorten(job)
  end
  -- From here on segments are read from the transcript.
  if job.f.ns then call('DEL', P .. 'e:' .. job.id) end
  if state == 'c' then
    -- That it was begun keeps its number, so that no watcher is told it twice; one right before the first segment needs no room,
    -- and that of a job which was begun once is always 2, behind its being queued.
    -- Mostly it was begun once, so that the time is known.
    local first = first_segment(job)
    local usual = first and first - 1 or 0
    if tonumber(job.f.f) == 1 then usual = 2 end
    if job.f.ss and tonumber(job.f.ss) ~= usual then put(job, 'sq', job.f.ss) end
    drop_all(job, job.f.sT == job.f.S and UNTOLD_AT_ONCE or UNTOLD)
  else
    forget_work(job)
    drop_all(job, UNHEARD)
  end
  drop_all(job, OVER)
  put(job, 'st', 'done')
  put(job, 'F', now_text)
  put(job, 'X', now + retention)
  later('ZADD', 'z', job.f.X, job.id)
  put(job, 'es', next_seq(job))
end

local function fail_job(job, failure, retention)
  put(job, 'E', failure)
  finish_job(job, 'f', retention)
end

local function submissions_of(job)
  local all = call('SMEMBERS', P .. 'm:' .. job.id)
  if job.f.s1 then table.insert(all, 1, job.f.s1) end
  return all
end

local function load_submission(id)
  local flat = call('HGETALL', P .. 's:' .. id)
  if #flat == 0 then return nil end
  local sub = table_of(flat)
  sub.id = id
  return sub
end

-- What this call about a submission or a job was answered, if it was made before: calls whose answer was lost are repeated.
local function answered_before(id, asked)
  local before = call('GET', P .. 'c:' .. id)
  if before and before:sub(1, #asked + 1) == asked .. '|' then return before:sub(#asked + 2) end
end

-- Remembers the answer for a minute, and is it.
local function answer(id, asked, what)
  call('SET', P .. 'c:' .. id, asked .. '|' .. what, 'PX', 60000)
  return what
end

local function is_terminal(state)
  return STATES_OVER[state] ~= nil
end

local function has_ended(sub, job)
  return sub.x ~= nil or is_terminal(job.f.s)
end

local function remove_submission(sub, job)
  call('DEL', P .. 's:' .. sub.id)
  -- One of which this cannot be read goes all the same.
  if sub.t then
    call('ZREM', P .. 'l:' .. sub.t, sub.id)
    if call('EXISTS', P .. 'l:' .. sub.t) == 0 then call('ZREM', P .. 'holders', sub.t) end
  end
  if sub.d then call('ZREM', P .. 'y', sub.id) end
  if sub.t and sub.i then
    local member = sub.t .. ':' .. sub.i
    local stored = call('GET', P .. 'i:' .. member)
    -- The key may have come to name a later submission.
    if stored and string.sub(stored, 1, #sub.id + 1) == sub.id .. '|' then
      call('DEL', P .. 'i:' .. member)
      call('ZREM', P .. 'ie', member)
    end
  end
  if job.f.s1 == sub.id then drop(job, 's1') else call('SREM', P .. 'm:' .. job.id, sub.id) end
  put(job, 'nt', tonumber(job.f.nt) - 1)
  if not sub.x then put(job, 'nl', tonumber(job.f.nl) - 1) end
  count('subs', -1)
  news[job.id] = true
end

-- Forgets an ended job with at most `most` submissions, and its blobs with it: `at_once` where that was asked for. Returns
-- how many submissions went, and whether the job did.
local function forget(job, most, at_once)
  local removed = 0
  for _, id in ipairs(submissions_of(job)) do
    if removed == most then
      save(job)
      return removed, false
    end
    local sub = load_submission(id)
    if sub then remove_submission(sub, job) end
    removed = removed + 1
  end
  if job.f.s == 'f' then
    discard(blob_of(job), at_once)
  elseif at_once then
    -- The audio may be in its grace.
    call('ZADD', P .. 'garbage', 'XX', 'LT', 0, blob_of(job))
  end
  if job.f.r then discard(result_of(job), at_once) end
  forget_work(job)
  leave(job)
  call('ZREM', P .. 'z', job.id)
  call('DEL', P .. 'j:' .. job.id, P .. 'd:' .. job.id, P .. 'e:' .. job.id, P .. 'h:' .. job.id, P .. 'hs:' .. job.id, P .. 'm:' .. job.id)
  return removed, true
end

-- Ends a submission that has not ended, and its job when nobody else waits for it. `how`: c cancelled, e too late.
local function end_apart(sub, job, how, retention, missed)
  sub.x, sub.y, sub.z = how, now, next_seq(job)
  call('HSET', P .. 's:' .. sub.id, 'x', how, 'y', now, 'z', sub.z)
  if sub.d then call('ZREM', P .. 'y', sub.id) end
  put(job, 'nl', tonumber(job.f.nl) - 1)
  if tonumber(job.f.nl) == 0 then
    if how == 'e' then
      fail_job(job, missed, retention)
    elseif job.f.s == 'r' then
      put(job, 'x', 1)
      forget_work(job)
    else
      finish_job(job, 'x', retention)
    end
  end
  save(job)
end
