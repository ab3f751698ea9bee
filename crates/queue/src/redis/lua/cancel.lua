-- ARGV: 2 tenant, 3 submission, 4 retention, 5 whether to remove what has ended (1 or 0). Answers nothing when there is no
-- such submission; else what was done, and the submission as it was left.
local sub = load_submission(ARGV[3])
if not sub or sub.t ~= ARGV[2] then return nil end
local job = load(sub.j)
if not has_ended(sub, job) then
  end_apart(sub, job, 'c', tonumber(ARGV[4]))
  flush()
  return { 'cancelled', view(sub, job) }
end
if ARGV[5] == '0' then return { 'ended', view(sub, job) } end
local last = view(sub, job)
remove_submission(sub, job)
if tonumber(job.f.nt) == 0 and is_terminal(job.f.s) then forget(job, 0) else save(job) end
flush()
return { 'removed', last }
