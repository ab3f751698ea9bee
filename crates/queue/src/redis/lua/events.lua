-- ARGV: 2 tenant (empty: anyone), 3 submission, 4 after this number, 5 at most. Answers nothing when there is no such
-- submission; else the view that events are made from, and stored segments after the number.
local sub = load_submission(ARGV[3])
if not sub or (ARGV[2] ~= '' and sub.t ~= ARGV[2]) then return nil end
local job = load(sub.j)
local from = math.max(tonumber(ARGV[4]) + 1, tonumber(sub.f))
local segments = call('ZRANGEBYSCORE', P .. 'e:' .. job.id, from, '+inf', 'LIMIT', 0, ARGV[5])
return { view(sub, job), segments }
