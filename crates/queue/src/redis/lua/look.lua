-- Answers the layout of the queue and the id of the store, each empty where it is missing.
return { redis.call('GET', KEYS[1]) or '', redis.call('GET', P .. 'store') or '' }
