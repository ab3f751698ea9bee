-- ARGV: 2 tenant, 3 its own caps (JSON).
if call('HGET', P .. 'own', ARGV[2]) == ARGV[3] then return end
call('HSET', P .. 'own', ARGV[2], ARGV[3])
call('INCR', P .. 'own:changes')
