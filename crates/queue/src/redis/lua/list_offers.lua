-- Answers the offers (JSON) with the name of each, and for each name that is a digest the workers and when each said it last.
local offers, by = call('HGETALL', P .. 'offers'), {}
for i = 1, #offers, 2 do
  by[#by + 1] = call('ZRANGE', P .. 'offers:by:' .. offers[i], 0, -1, 'WITHSCORES')
end
return { offers, by }
