-- ARGV: for each of several blobs 3 values: job, blob, and the result that the holder of the lease would write, fence-nonce,
-- empty for audio. Answers for each 2 when the job needs it: audio until it has succeeded or its dead letter is forgotten, a
-- result as long as it is kept or may be being written; 1 when it is listed for deletion; else 0.
local function fate(id, blob, lease)
  local job = load(id)
  if job then
    local f = job.f
    -- A job that cannot be read, or is in a state that only a newer version knows, may still need what it could ever need.
    local known = broken_field(job, f.s == 'r') == nil
    if blob_of(job) == blob and f.s ~= 'c' and f.s ~= 'x' then return 2 end
    if result_of(job) == blob then return 2 end
    if lease ~= '' and not is_terminal(f.s) and (not known or f.s == 'r' and f.f .. '-' .. f.n == lease) then return 2 end
  end
  if call('ZSCORE', P .. 'garbage', blob) or call('SISMEMBER', P .. 'g', blob) == 1 then return 1 end
  return 0
end

local fates = {}
for i = 2, #ARGV, 3 do fates[#fates + 1] = fate(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return fates
