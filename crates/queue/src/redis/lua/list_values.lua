-- ARGV: 2 prefix. Answers names and values in order.
local found = {}
-- No text holds the byte 255.
for _, name in ipairs(call('ZRANGEBYLEX', P .. 'values', '[' .. ARGV[2], '(' .. ARGV[2] .. '\255')) do
  local kept = call('HMGET', P .. 'value:' .. name, 'b', 'e')
  if kept[1] and tonumber(kept[2]) > now then found[#found + 1] = { name, kept[1] } end
end
return found
