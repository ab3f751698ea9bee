-- ARGV: 2 job, 3 fence, 4 provider, 5 tenant, 6 milliseconds billed, 7 cost (empty: no price is known), 8 days for which
-- charges are kept.
local job, fence, provider, whose = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local billed, cost = tonumber(ARGV[6]), tonumber(ARGV[7])
give_back(entry_of(job, fence, provider))
give_back_older(job, fence)
if is_charged(job, fence, provider, ARGV[8]) then return 0 end

local day = whole(today)
local line = table.concat({ fence, ARGV[6], ARGV[7], whose, provider }, '|')
call('HSET', P .. 'charged:' .. day, job, charges_of(job, today) .. line .. '\n')
if call('ZADD', P .. 'chargeddays', day, day) == 1 then
  -- A day begins, and another one is over.
  for _, old in ipairs(call('ZRANGEBYSCORE', P .. 'chargeddays', '-inf', whole(today - tonumber(ARGV[8]) - 1))) do
    call('UNLINK', P .. 'charged:' .. old)
    call('ZREM', P .. 'chargeddays', old)
  end
end

local field = whose .. ':' .. provider
local kept = call('HGET', P .. 'day:' .. day, field) or '0|0|0|0'
local jobs, all, unpriced, spent = string.match(kept, '^(.-)|(.-)|(.-)|(.*)$')
local sums = { plus(jobs, 1), plus(all, billed), plus(unpriced, cost and 0 or billed), plus(spent, cost or 0) }
for i, sum in ipairs(sums) do sums[i] = whole(sum) end
call('HSET', P .. 'day:' .. day, field, table.concat(sums, '|'))
call('ZADD', P .. 'days', day, day)
if cost then
  add(P .. 'spent:' .. day, 'p' .. provider, cost)
  add(P .. 'spent:' .. day, 't' .. whose, cost)
end
return 1
