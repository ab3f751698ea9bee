-- ARGV: for each of several blobs 3 values: job, blob, and the result that the holder of the lease would write, fence-nonce,
-- empty for audio. Answers for each 2 when the job needs it: audio until it has succeeded or its dead letter is forgotten, a
-- result as long as it is kept or may be being written; 1 when it is listed for deletion; else 0.
local function fate(id, blob, lease)
  local job = load(id)
  if job then
    local f = job.f
    if blob_of(job) == blob and (f.s == 'q' or f.s == 'd' or f.s == 'r' or f.s == 'f') then return 2 end
    if result_of(job) == blob then return 2 end
    if lease ~= '' and f.s == 'r' and f.f .. '-' .. f.n == lease then return 2 end
  end
  if call('ZSCORE', P .. 'garbage', blob) or call('SISMEMBER', P .. 'g', blob) == 1 then return 1 end
  return 0
end

local fates = {}
for i = 2, #ARGV, 3 do fates[#fates + 1] = fate(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return fates
