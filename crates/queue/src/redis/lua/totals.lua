-- ARGV: 2 first day, 3 last day, 4 days at most. Answers where to go on (empty: there are no more) and for each day of
-- which there is something its number and its fields.
local from = math.max(tonumber(ARGV[2]), today - KEPT_DAYS)
local days = call('ZRANGEBYSCORE', P .. 'days', whole(from), ARGV[3], 'LIMIT', 0, ARGV[4])
local found = {}
for i, day in ipairs(days) do found[i] = { day, call('HGETALL', P .. 'day:' .. day) } end
return { #days == tonumber(ARGV[4]) and whole(tonumber(days[#days]) + 1) or '', found }
