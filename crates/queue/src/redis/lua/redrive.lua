-- ARGV: 2 job, 3 dedupe ttl, 4 greatest age, 5 the call. Answers queued, none, or why not: live, done, unwanted. A call
-- whose answer was lost is repeated, and gets the same answer.
local before = answered_before(ARGV[2], ARGV[5])
if before then return before end
local job = load_dead_letter(ARGV[2])
if not job then return 'none' end
if tonumber(job.f.nl) == 0 then return 'unwanted' end
local found = call('HGET', P .. 'w', job.f.k)
local other = found and load(found)
-- One that cannot be read answers nobody.
if other and other.id ~= job.id and not broken_as_a_whole(other) then
  if other.f.s == 'c' then
    if tonumber(other.f.F) + tonumber(ARGV[3]) > now then return 'done' end
  else
    return 'live'
  end
end
leave(job)
for _, field in ipairs({ 'E', 'F', 'X', 'B', 'C', 'D', 'es', 'ss', 'ps', 'ns', 'pr' }) do drop(job, field) end
call('DEL', P .. 'e:' .. job.id)
call('PEXPIRE', P .. 'hs:' .. job.id, tonumber(ARGV[4]) + 86400000, 'GT')
local tail = clock('tail') + 1
set_clock('tail', tail)
put(job, 'o', tail)
put(job, 'a', 0)
put(job, 'Q', now_text)
put(job, 'z', now + tonumber(ARGV[4]))
put(job, 'st', 'queued')
call('HSET', P .. 'w', job.f.k, job.id)
call('ZADD', P .. 'z', job.f.z, job.id)
enqueue(job)
note_queued(job)
save(job)
flush()
return answer(ARGV[2], ARGV[5], 'queued')
