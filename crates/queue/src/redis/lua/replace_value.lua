-- ARGV: 2 name, 3 the version that was read (empty: there was none), 4 value, 5 how long it lives. Answers whether it was
-- still that version.
local key = P .. 'value:' .. ARGV[2]
local kept = call('HMGET', key, 'v', 'e')
local current = kept[1] and tonumber(kept[2]) > now and kept[1] or ''
if current ~= ARGV[3] then return 0 end
-- Counted for all values, and never behind the clock: also a Redis that forgot its last second gives no version twice.
local version = whole(math.max((tonumber(call('GET', P .. 'values:last')) or 0) + 1, now * 1000))
local ends = whole(now + tonumber(ARGV[5]))
call('SET', P .. 'values:last', version)
call('HSET', key, 'v', version, 'b', ARGV[4], 'e', ends)
call('ZADD', P .. 'values', 0, ARGV[2])
call('ZADD', P .. 'values:end', ends, ARGV[2])
-- Upkeep removes what has expired. It may be a credential, so Redis does it too, where time is its own.
if ARGV[1] == '' then call('PEXPIRE', key, ARGV[5]) end
return 1
