-- ARGV: 2 tenant, 3 submission, 4 result. Makes the job answer no more submissions, if that is its result.
local sub = load_submission(ARGV[3])
if not sub or sub.t ~= ARGV[2] then return end
local job = load(sub.j)
if job and job.f.s == 'c' and result_of(job) == ARGV[4] then forget_work(job) end
