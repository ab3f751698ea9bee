-- ARGV: 2 retention, then for each job 8 values: call, job, fence, nonce and four more, as the call wants them:
--   c complete: result, milliseconds of audio, engine, model
--   f fail:     failure JSON, what to do after each number of attempts (delay, or -1 to give up), refund (1 or 0)
--   l release:  -
-- Answers for each the state that the job is in now, or nothing for a stale lease. A repetition gets the same answer.
local retention = tonumber(ARGV[2])
local FIELDS = { 's', 'f', 'n', 't', 'p', 'w', 'W', 'x', 'k', 'b', 'a', 'o', 'u', 'ls', 'ct', 'cc', 'cp', 'pr', 'P', 'nl', 'K',
  'B', 'C', 'D', 'G', 'Q', 'l', 'ns', 'r' }

local act = {}

function act.c(job, result, millis, engine, model)
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
  put(job, 'pr', '1')
  keep_result(job, result)
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

local answers = {}
for i = 3, #ARGV, 8 do
  local kind = ARGV[i]
  local job = load_some(ARGV[i + 1], FIELDS)
  local token = ARGV[i + 2] .. '|' .. ARGV[i + 3]
  if not job then
    answers[#answers + 1] = ''
  elseif job.f.s == 'r' and job.f.f .. '|' .. job.f.n == token or is_held_again(job, ARGV[i + 2], ARGV[i + 3]) then
    act[kind](job, ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7])
    -- The name of a published result says which lease published it.
    if job.f.s ~= 'c' or not is_published(job, ARGV[i + 2], ARGV[i + 3]) then
      put(job, 'P', kind .. '|' .. token .. '|' .. job.f.s)
    else
      drop_all(job, { 'P' })
    end
    save(job)
    answers[#answers + 1] = job.f.s
  elseif kind == 'c' and job.f.s == 'c' and is_published(job, ARGV[i + 2], ARGV[i + 3]) then
    answers[#answers + 1] = 'c'
  else
    local past = kind .. '|' .. token .. '|'
    local same = job.f.P and string.sub(job.f.P, 1, #past) == past
    answers[#answers + 1] = same and string.sub(job.f.P, -1) or ''
  end
end
flush()
return answers
