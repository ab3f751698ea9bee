-- ARGV: 2 from where on (`0` at first), 3 about how many. Answers where to go on (`0`: nowhere), and offers that several workers
-- may have made: digest, and the offer (JSON) as the last of them announced it.
local found, offers = call('HSCAN', P .. 'offers:under', ARGV[2], 'COUNT', ARGV[3]), {}
for i = 1, #found[2], 2 do
  local offer = call('HGET', P .. 'offers', found[2][i + 1])
  if offer then offers[#offers + 1] = { found[2][i], offer } end
end
return { found[1], offers }
