-- ARGV: 1 layout, 2 id of the store. Makes what is missing of both. Answers what is there now.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('SET', P .. 'store', ARGV[2], 'NX')
return { redis.call('GET', KEYS[1]), redis.call('GET', P .. 'store') }
