-- ARGV: 2 most, 3 grace, 4 first hold, 5 doublings of it at most. Answers blobs that are due for deletion; each is held for
-- who takes it, for twice as long each time it is taken again.
local most, grace, hold, doublings = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
for _, blob in ipairs(call('SPOP', P .. 'g', most)) do discard(blob) end
local due = call('ZRANGEBYSCORE', P .. 'garbage', '-inf', now - grace, 'LIMIT', 0, most)
if #due == 0 then return due end
local takes = call('HMGET', P .. 'garbage:takes', unpack(due))
local scores, counts = {}, {}
for i, blob in ipairs(due) do
  local before = tonumber(takes[i]) or 0
  scores[2 * i - 1], scores[2 * i] = whole(now - grace + hold * 2 ^ math.min(before, doublings)), blob
  counts[2 * i - 1], counts[2 * i] = blob, whole(before + 1)
end
call('ZADD', P .. 'garbage', unpack(scores))
call('HSET', P .. 'garbage:takes', unpack(counts))
return due
