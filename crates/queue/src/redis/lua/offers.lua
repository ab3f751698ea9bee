-- What the scripts about offers share. An offer is kept once for all workers that say the same, under the digest of what they
-- say, in the hash in which nodes of an earlier version keep one for each worker.
local SILENCE, DAY = 300000, 86400000

local function forget_offer(digest)
  call('HDEL', P .. 'offers', digest)
  call('ZREM', P .. 'offers:at', digest)
  for _, worker in ipairs(call('ZRANGE', P .. 'offers:by:' .. digest, 0, -1)) do
    if call('HGET', P .. 'offers:of', worker) == digest then call('HDEL', P .. 'offers:of', worker) end
  end
  call('DEL', P .. 'offers:by:' .. digest)
end

-- The worker says this no longer. What nobody else says goes with it.
local function take_back(worker, digest)
  call('ZREM', P .. 'offers:by:' .. digest, worker)
  call('HDEL', P .. 'offers:of', worker)
  if call('EXISTS', P .. 'offers:by:' .. digest) == 0 then forget_offer(digest) end
end
