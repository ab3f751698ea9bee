-- ARGV: 2 job, 3 blob, 4 result that the holder of the lease would write: fence-nonce. Answers whether the job needs it:
-- audio until it has succeeded or its dead letter is forgotten, a result as long as it is kept or may be being written.
local job = load(ARGV[2])
if not job then return 0 end
local f = job.f
if blob_of(job) == ARGV[3] and (f.s == 'q' or f.s == 'd' or f.s == 'r' or f.s == 'f') then return 1 end
if result_of(job) == ARGV[3] then return 1 end
if ARGV[4] ~= '' and f.s == 'r' and f.f .. '-' .. f.n == ARGV[4] then return 1 end
return 0
