-- ARGV: 2 tenants looked at, those who asked last, 3 tenants answered, then the project's 4 capacity, 5 refill in a minute,
-- 6 burst, 7 cooldown (empty: no limit). Answers tokens left (-1: no limit), then tenant and requests of each, the busiest first.
local found = {}
for _, name in ipairs(call('ZREVRANGEBYSCORE', P .. 'windows', '+inf', '(' .. now_text, 'LIMIT', 0, ARGV[2])) do
  local used = requests(P .. 'window:' .. name, MINUTE)
  if used > 0 then found[#found + 1] = { name, used } end
end
table.sort(found, function(a, b)
  if a[2] ~= b[2] then return a[2] > b[2] end
  return a[1] < b[1]
end)
local capacity = tonumber(ARGV[4])
local answer = { capacity and math.floor(bucket(capacity, tonumber(ARGV[5]), tonumber(ARGV[7])) / TOKEN) or -1 }
answer[2] = {}
for i = 1, math.min(#found, tonumber(ARGV[3])) do answer[2][i] = found[i] end
return answer
