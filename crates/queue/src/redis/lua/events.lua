-- ARGV: 2 tenant (empty: anyone), 3 submission, 4 after this number, 5 at most. Answers nothing when there is no such
-- submission; else the view that events are made from, stored segments after the number, and of a full page the number of the last.
local sub = load_submission(ARGV[3])
if not sub or (ARGV[2] ~= '' and sub.t ~= ARGV[2]) then return nil end
local job = load_any(sub)
local from = math.max(tonumber(ARGV[4]) + 1, tonumber(sub.f) or 0)
local segments = call('ZRANGEBYSCORE', P .. 'e:' .. job.id, from, '+inf', 'LIMIT', 0, ARGV[5])
local most = tonumber(ARGV[5])
local last = most > 0 and #segments == most and call('ZSCORE', P .. 'e:' .. job.id, segments[most])
return { view(sub, job), segments, last and whole(last) or false }
