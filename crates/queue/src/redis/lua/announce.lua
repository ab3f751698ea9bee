-- ARGV: 2 worker, 3 its offer (JSON), 4 what of it any worker may say as well (JSON).
local worker, digest = ARGV[2], redis.sha1hex(ARGV[4])
local before = call('HGET', P .. 'offers:of', worker)
if before and before ~= digest then take_back(worker, before) end
local field = call('HGET', P .. 'offers:under', digest)
if field and field ~= worker then call('HDEL', P .. 'offers', field) end
call('HSET', P .. 'offers', worker, ARGV[3])
call('HSET', P .. 'offers:under', digest, worker)
call('ZADD', P .. 'offers:at', now_text, digest)
call('HSET', P .. 'offers:of', worker, digest)
call('ZADD', P .. 'offers:by:' .. digest, now_text, worker)

-- Workers that went without a word, while another one says the same; and what nobody has said for a day.
for _, gone in ipairs(call('ZRANGEBYSCORE', P .. 'offers:by:' .. digest, '-inf', now - SILENCE, 'LIMIT', 0, MOST)) do
  take_back(gone, digest)
end
local left = MOST
for _, old in ipairs(call('ZRANGEBYSCORE', P .. 'offers:at', '-inf', now - DAY, 'LIMIT', 0, 16)) do
  if left > 0 then left = left - forget_offer(old, left) end
end

-- The same where a node of an earlier version announced it: once an hour a walk over all offers, a page with each announcement.
local began, cursor = string.match(call('GET', P .. 'offers:looked') or '0', '^(%d+):?(%d*)$')
began = tonumber(began or 0)
if cursor == '' and now - began >= 3600000 then began, cursor = now, '0' end
if cursor and cursor ~= '' then
  local found = call('HSCAN', P .. 'offers', cursor, 'COUNT', MOST)
  for i = 1, #found[2], 2 do
    local name, at = found[2][i], tonumber(string.match(found[2][i + 1], '"announced_at":(%d+)') or 0)
    if at <= now - DAY then
      local says = call('HGET', P .. 'offers:of', name)
      local is_ours = says and call('HGET', P .. 'offers:under', says) == name
      if not is_ours then call('HDEL', P .. 'offers', name) end
    end
  end
  call('SET', P .. 'offers:looked', whole(began) .. (found[1] == '0' and '' or ':' .. found[1]), 'PX', DAY)
end
return 1
