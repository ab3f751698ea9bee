-- ARGV: 2 on: blobs that are gone.
call('ZREM', P .. 'garbage', unpack(ARGV, 2))
call('HDEL', P .. 'garbage:takes', unpack(ARGV, 2))
call('SREM', P .. 'g', unpack(ARGV, 2))
