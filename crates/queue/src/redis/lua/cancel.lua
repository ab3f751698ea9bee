-- ARGV: 2 tenant, 3 submission, 4 retention, 5 the call that removes what has ended, empty for one that only cancels.
-- Answers nothing when there is no such submission; else what was done, and the submission as it was left. A call whose
-- answer was lost is repeated: it must neither remove what it cancelled nor miss what it removed.
local asked = ARGV[5]
local before = asked ~= '' and answered_before(ARGV[3], asked)
if before then return { before, false } end
local sub = load_submission(ARGV[3])
if not sub or sub.t ~= ARGV[2] then return nil end
local function done(what, seen)
  if asked ~= '' then answer(sub.id, asked, what) end
  return { what, seen }
end
local job = load_whole(sub.j)
if not has_ended(sub, job) then
  end_apart(sub, job, 'c', tonumber(ARGV[4]))
  flush()
  return done('cancelled', view(sub, job))
end
if asked == '' then return done('ended', view(sub, job)) end
local last = view(sub, job)
remove_submission(sub, job)
if tonumber(job.f.nt) == 0 and is_terminal(job.f.s) then forget(job, 0, true) else save(job) end
flush()
return done('removed', last)
