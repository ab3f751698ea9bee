-- ARGV: 2 job. Forgets a dead letter with its submissions. Answers whether there was one.
local job = load(ARGV[2])
if not job or job.f.s ~= 'f' then return 0 end
forget(job, -1, true)
flush()
return 1
