-- ARGV: 2 job, 3 fence, 4 provider, 5 tenant, 6 cost, 7 budget of the provider, 8 of the tenant (empty: none), 9 for how
-- long, 10 days for which charges are kept. Answers 0 granted, 1 over the provider's budget, 2 over the tenant's.
local job, fence, provider, whose, cost = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
if is_charged(job, fence, provider, ARGV[10]) then return 0 end
local entry = entry_of(job, fence, provider)
give_back(entry)
give_back_older(job, fence)
for _, lapsed in ipairs(call('ZRANGEBYSCORE', P .. 'reserved:end', '-inf', now_text, 'LIMIT', 0, 1000)) do
  give_back(lapsed)
end

local function exceeds(budget, field)
  if budget == '' then return false end
  local taken = plus(number_of(P .. 'spent:' .. whole(today), field), number_of(P .. 'reserved:sums', field))
  return taken + cost > tonumber(budget)
end
if exceeds(ARGV[7], 'p' .. provider) then return 1 end
if exceeds(ARGV[8], 't' .. whose) then return 2 end
call('HSET', P .. 'reserved', entry, whole(cost) .. '|' .. whose .. '|' .. provider)
note_reserved(job, reserved_for(job) .. entry .. '\n')
call('ZADD', P .. 'reserved:end', whole(now + tonumber(ARGV[9])), entry)
add(P .. 'reserved:sums', 'p' .. provider, cost)
add(P .. 'reserved:sums', 't' .. whose, cost)
return 0
