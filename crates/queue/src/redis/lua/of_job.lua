-- ARGV: 2 job. Answers its charges, a line each.
local lines = {}
for day = today - KEPT_CHARGES, today do
  for line in string.gmatch(charges_of(ARGV[2], day), '[^\n]+') do lines[#lines + 1] = line end
end
return lines
