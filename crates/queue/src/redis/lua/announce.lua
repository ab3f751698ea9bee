-- ARGV: 2 worker, 3 its offer (JSON), then the workers whose offers it takes the place of.
call('HSET', P .. 'offers', ARGV[2], ARGV[3])
for i = 4, #ARGV do call('HDEL', P .. 'offers', ARGV[i]) end
return 1
