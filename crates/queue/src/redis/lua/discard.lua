-- ARGV: 2 job, 3 the call. Forgets a dead letter with its submissions. Answers whether there was one; a call whose answer
-- was lost is repeated, and gets the same answer.
if answered_before(ARGV[2], ARGV[3]) then return 1 end
local job = load_dead_letter(ARGV[2])
if not job then return 0 end
forget(job, -1, true)
flush()
return answer(ARGV[2], ARGV[3], 1)
