-- ARGV: 2 worker, 3 its offer (JSON), 4 what of it any worker may say as well (JSON).
local worker, digest = ARGV[2], redis.sha1hex(ARGV[4])
local before = call('HGET', P .. 'offers:of', worker)
if before and before ~= digest then take_back(worker, before) end
call('HSET', P .. 'offers', digest, ARGV[3])
call('ZADD', P .. 'offers:at', now_text, digest)
call('HSET', P .. 'offers:of', worker, digest)
call('ZADD', P .. 'offers:by:' .. digest, now_text, worker)

-- Workers that went without a word, while another one says the same; and what nobody has said for a day.
for _, gone in ipairs(call('ZRANGEBYSCORE', P .. 'offers:by:' .. digest, '-inf', now - SILENCE, 'LIMIT', 0, 100)) do
  take_back(gone, digest)
end
for _, old in ipairs(call('ZRANGEBYSCORE', P .. 'offers:at', '-inf', now - DAY, 'LIMIT', 0, 16)) do forget_offer(old) end

-- The same where a node of an earlier version announced it: looked for once an hour.
local looked = tonumber(call('GET', P .. 'offers:looked') or 0)
if call('HLEN', P .. 'offers') > call('ZCARD', P .. 'offers:at') and now - looked >= 3600000 then
  call('SET', P .. 'offers:looked', now_text, 'PX', DAY)
  for name, offer in pairs(table_of(call('HGETALL', P .. 'offers'))) do
    local at = tonumber(string.match(offer, '"announced_at":(%d+)') or 0)
    if not call('ZSCORE', P .. 'offers:at', name) and at <= now - DAY then call('HDEL', P .. 'offers', name) end
  end
end
return 1
