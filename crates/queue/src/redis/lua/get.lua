-- ARGV: 2 tenant, 3 submission. Answers nothing for what does not exist or belongs to another.
local sub = load_submission(ARGV[3])
if not sub or sub.t ~= ARGV[2] then return nil end
local job = load_any(sub)
return view(sub, job, sub.x and -1 or position(job))
