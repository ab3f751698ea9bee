-- ARGV: 2 name. Answers the time, then version and value where there is one.
local kept = call('HMGET', P .. 'value:' .. ARGV[2], 'v', 'b', 'e')
if not kept[1] or tonumber(kept[3]) <= now then return { now, false, false } end
return { now, kept[1], kept[2] }
