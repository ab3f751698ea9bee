-- What the scripts about offers share. An offer is kept once for all workers that say the same, in the hash in which nodes of an
-- earlier version keep one for each worker. Like theirs it is named after the worker that it tells of, the last one that said
-- it: such nodes remove offers by the worker in them. `offers:under` says where an offer is, by the digest of what it says.
local SILENCE, DAY = 300000, 86400000
-- Entries that one call clears away at most.
local MOST = 100

-- Ends an offer, and forgets up to so many of the workers that made it. Answers how many there were.
local function forget_offer(digest, most)
  local field = call('HGET', P .. 'offers:under', digest)
  if field then
    call('HDEL', P .. 'offers', field)
    call('HDEL', P .. 'offers:under', digest)
  end
  local speakers = call('ZRANGE', P .. 'offers:by:' .. digest, 0, most - 1)
  for _, worker in ipairs(speakers) do
    if call('HGET', P .. 'offers:of', worker) == digest then call('HDEL', P .. 'offers:of', worker) end
    call('ZREM', P .. 'offers:by:' .. digest, worker)
  end
  if call('EXISTS', P .. 'offers:by:' .. digest) == 0 then call('ZREM', P .. 'offers:at', digest) end
  return #speakers
end

-- The worker says this no longer. What nobody else says goes with it; else the offer tells of the last one that did.
local function take_back(worker, digest)
  call('ZREM', P .. 'offers:by:' .. digest, worker)
  if call('HGET', P .. 'offers:of', worker) == digest then call('HDEL', P .. 'offers:of', worker) end
  local last = call('ZREVRANGE', P .. 'offers:by:' .. digest, 0, 0, 'WITHSCORES')
  if #last == 0 then
    forget_offer(digest, 1)
  elseif call('HGET', P .. 'offers:under', digest) == worker then
    local offer = call('HGET', P .. 'offers', worker)
    call('HDEL', P .. 'offers', worker)
    call('HSET', P .. 'offers:under', digest, last[1])
    -- An older node may have removed it: then it comes again with the next announcement.
    if offer then
      offer = string.gsub(offer, worker, last[1], 1)
      offer = string.gsub(offer, '"announced_at":%d+', '"announced_at":' .. whole(last[2]), 1)
      call('HSET', P .. 'offers', last[1], offer)
    end
  end
end
