-- ARGV: 2 a node that ticks no more. If it was the one that ticks, others hear of it, and the first that asks takes its place.
call('ZREM', P .. 'tick:standby', ARGV[2])
if call('HGET', P .. 'tick', 'node') ~= ARGV[2] then return 0 end
call('HDEL', P .. 'tick', 'node')
call('PUBLISH', P .. 'work', 'turn')
return 1
