-- ARGV: from 2 on names. Answers for each running and waiting jobs, remembered submissions, and the caps in force (-1: none).
local found = {}
for i = 2, #ARGV do
  local whose = tenant(ARGV[i])
  found[#found + 1] = { whose.r, whose.w, call('ZCARD', P .. 'l:' .. ARGV[i]), whose.mr or -1, whose.mq or -1 }
end
return found
