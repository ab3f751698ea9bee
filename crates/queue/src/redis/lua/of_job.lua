-- ARGV: 2 job, 3 days for which charges are kept. Answers its charges, a line each.
local lines = {}
for day = today - tonumber(ARGV[3]), today do
  for line in string.gmatch(charges_of(ARGV[2], day), '[^\n]+') do lines[#lines + 1] = line end
end
return lines
