-- ARGV: 2 tenant (empty: all), 3 only those before this job, 4 at most, 5 look at most at so many. The latest failure
-- first. Answers where to go on (empty: there are no more) and the dead letters.
local rank = ARGV[3] ~= '' and call('ZREVRANK', P .. 'dlq', ARGV[3])
local start, most, found = rank and rank + 1 or 0, tonumber(ARGV[4]), {}
local ids = call('ZREVRANGE', P .. 'dlq', start, start + tonumber(ARGV[5]) - 1)
for _, id in ipairs(ids) do
  if ARGV[2] == '' or call('HGET', P .. 'j:' .. id, 't') == ARGV[2] then
    local job, submissions = load(id), {}
    for _, sub in ipairs(job and submissions_of(job) or {}) do
      if #submissions == 256 then break end
      if call('HEXISTS', P .. 's:' .. sub, 'x') == 0 then submissions[#submissions + 1] = sub end
    end
    if job then found[#found + 1] = { id, flat_of(job.f), call('GET', P .. 'd:' .. id) or '', submissions } end
    if #found == most then return { '', found } end
  end
end
return { #ids == tonumber(ARGV[5]) and ids[#ids] or '', found }
