-- ARGV: 2 tenant, 3 only before this submission, 4 status, 5 at most, 6 look at most at so many. Newest first. Answers
-- where to go on (empty: there are no more) and the submissions.
local key, most, found = P .. 'l:' .. ARGV[2], tonumber(ARGV[5]), {}
local names = { q = 'queued', d = 'queued', r = 'processing', c = 'completed', f = 'failed', x = 'cancelled' }
local ids = call('ZRANGE', key, ARGV[3] == '' and '+' or '(' .. ARGV[3], '-', 'BYLEX', 'REV', 'LIMIT', 0, ARGV[6])
-- One behind which there is nothing any more is left out.
for _, id in ipairs(ids) do
  local sub = load_submission(id)
  local job = sub and sub.j and load(sub.j)
  local status = job and (sub.x == 'c' and 'cancelled' or sub.x == 'e' and 'failed' or names[job.f.s] or 'processing')
  if job and (ARGV[4] == '' or ARGV[4] == status) then
    found[#found + 1] = view(sub, job, sub.x and -1 or position(job))
    if #found == most then return { '', found } end
  end
end
return { #ids == tonumber(ARGV[6]) and ids[#ids] or '', found }
