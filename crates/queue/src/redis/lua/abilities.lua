-- ARGV: 2 digest, 3 how long it is remembered, 4 on: the classes that it stands for. Workers that can do the same share it.
local key = P .. 'abilities:' .. ARGV[2]
call('DEL', key)
call('SADD', key, unpack(ARGV, 4))
call('PEXPIRE', key, ARGV[3])
