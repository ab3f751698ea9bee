-- ARGV: 2 retention, 3 what lies between the numbers of two segments, then for each job 11 values: call, job, fence, nonce and
-- seven more, as the call wants them:
--   c complete: result, milliseconds of audio, engine, model, segments of the transcript, whether they are others than those
--               that were reported (1 or 0), findings in the audio (JSON, or nothing)
--   f fail:     failure JSON, what to do after each number of attempts (delay, or -1 to give up), refund (1 or 0)
--   l release:  -
-- Answers for each the state that the job is in now, or nothing for a stale lease. A repetition gets the same answer. One whose
-- job cannot be read, which stays as it is, is answered with `!` and why.
local retention, stride = tonumber(ARGV[2]), tonumber(ARGV[3])
local FIELDS = { 's', 'e', 'z', 'f', 'n', 't', 'p', 'w', 'W', 'x', 'k', 'b', 'a', 'o', 'u', 'ls', 'ct', 'cc', 'cp', 'ck', 'pr', 'P', 'nl', 'K',
  'B', 'C', 'D', 'G', 'Q', 'l', 'ns', 'r', 'sb',
  'S', 'sT', 'ss' }

local act = {}

-- Gives each segment of the transcript the number under which watchers are told of it: those that were reported keep theirs,
-- the others follow. Where the transcript has other segments, or there is no room left for the numbers that are to follow,
-- watchers are told that the attempt started again, and all segments get new numbers.
local function number_segments(job, count, retold)
  local told = tonumber(job.f.ns or 0)
  local first = told > 0 and first_segment(job) or nil
  if retold or first and told < count and first + stride * told <= tonumber(job.f.ls) then
    note_started(job)
    first, told = nil, 0
    drop(job, 'ns')
    call('DEL', P .. 'e:' .. job.id)
  end
  if count <= told then return end
  first = first or tonumber(job.f.ls) + 1
  put(job, 'sb', format('%s:%.0f', job.f.f, first))
  put(job, 'ns', count)
  put(job, 'ls', first + stride * (count - 1))
end

function act.c(job, result, millis, engine, model, segments, retold, findings)
  local secs = math.max(1, math.ceil(tonumber(millis) / 1000))
  settle(job, secs)
  if job.f.x then
    discard(result, true)
    return finish_job(job, 'x', retention)
  end
  put(job, 'dm', millis)
  put(job, 'e', secs)
  put(job, 'g', engine)
  put(job, 'mo', model)
  if findings ~= '' then put(job, 'fi', findings) end
  put(job, 'pr', '1')
  keep_result(job, result)
  number_segments(job, tonumber(segments), retold == '1')
  finish_job(job, 'c', retention)
end

function act.f(job, failure, steps, refund)
  if job.f.x then return finish_job(job, 'x', retention) end
  local delays = {}
  for delay in string.gmatch(steps, '[^,]+') do delays[#delays + 1] = tonumber(delay) end
  local delay = delays[math.min(#delays, math.max(1, tonumber(job.f.a)))]
  if delay < 0 then return fail_job(job, failure, retention) end
  if refund == '1' then
    put(job, 'a', math.max(0, tonumber(job.f.a) - 1))
    settle(job, 0)
  end
  wait_again(job, delay)
end

function act.l(job)
  settle(job, 0)
  if job.f.x then return finish_job(job, 'x', retention) end
  put(job, 'a', math.max(0, tonumber(job.f.a) - 1))
  local head = clock('head') - 1
  set_clock('head', head)
  put(job, 'o', head)
  wait_again(job, 0)
end

local function is_published(job, fence, nonce)
  local name = '/' .. fence .. '-' .. nonce
  return string.sub(result_of(job) or '', -#name) == name
end

local function finish(kind, id, fence, nonce, ...)
  local job = load_some(id, FIELDS)
  if not job then return '' end
  local token = fence .. '|' .. nonce
  local held = job.f.s == 'r' and job.f.f == fence and job.f.n == nonce
  if held then
    local broken = broken_field(job, true)
    if broken then return '!field ' .. broken end
  end
  if held or is_held_again(job, fence, nonce) then
    act[kind](job, ...)
    -- The name of a published result says which lease published it.
    if job.f.s ~= 'c' or not is_published(job, fence, nonce) then
      put(job, 'P', kind .. '|' .. token .. '|' .. job.f.s)
    else
      drop_all(job, { 'P' })
    end
    save(job)
    return job.f.s
  end
  if kind == 'c' and job.f.s == 'c' and is_published(job, fence, nonce) then return 'c' end
  local past = kind .. '|' .. token .. '|'
  local same = job.f.P and string.sub(job.f.P, 1, #past) == past
  return same and string.sub(job.f.P, -1) or ''
end

local answers = {}
for i = 4, #ARGV, 11 do
  local at = #answers + 1
  local problem = try(function() answers[at] = finish(unpack(ARGV, i, i + 10)) end)
  if problem then answers[at] = '!' .. problem end
end
flush()
return answers
