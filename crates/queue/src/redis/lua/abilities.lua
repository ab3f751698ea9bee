-- ARGV: 2 digest, 3 on: the classes that it stands for. Workers that can do the same share it.
local key = P .. 'abilities:' .. ARGV[2]
call('DEL', key)
call('SADD', key, unpack(ARGV, 3))
call('PEXPIRE', key, ABILITIES_KEPT)
