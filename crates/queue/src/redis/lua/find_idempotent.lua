-- ARGV: 2 tenant, 3 idempotency key. Answers nothing, or the digest of the body and the submission.
local stored = call('GET', P .. 'i:' .. ARGV[2] .. ':' .. ARGV[3])
if not stored then return nil end
local id, expires, digest = string.match(stored, '^(.-)|(.-)|(.*)$')
local sub = tonumber(expires) > now and load_submission(id)
if not sub then return nil end
return { digest, view(sub, load_any(sub)) }
