-- ARGV: 2 for how long.
local before = tonumber(call('HGET', P .. 'blobs', 'quiet')) or 0
call('HSET', P .. 'blobs', 'quiet', whole(math.max(before, now + tonumber(ARGV[2]))))
