-- ARGV: 2 mark that is to be exceeded. Answers the new one.
local mark = math.max(tonumber(call('HGET', P .. 'blobs', 'mark')) or 0, tonumber(ARGV[2])) + 1
call('HSET', P .. 'blobs', 'mark', whole(mark))
return mark
