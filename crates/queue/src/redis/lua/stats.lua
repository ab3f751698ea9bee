-- Answers counters, workers there, for each tier (high first) since when its oldest job waits, the time, blobs to delete.
-- Of a tier's tenants the first 64 to be served are looked at; of each, the job that is served next.
local oldest = {}
for tier = 2, 0, -1 do
  local first
  local function look(id)
    local since = tonumber(call('HGET', P .. 'j:' .. id, 'Q'))
    if not first or since < first then first = since end
  end
  for _, name in ipairs(call('ZRANGE', P .. 'a:' .. tier, 0, 63)) do
    look(call('ZRANGE', P .. 'q:' .. tier .. ':' .. name, 0, 0)[1])
  end
  for _, id in ipairs(call('ZRANGE', P .. 'u:' .. tier, 0, 63)) do look(id) end
  oldest[#oldest + 1] = first or -1
end
local garbage = call('ZCARD', P .. 'garbage') + call('SCARD', P .. 'g')
return { call('HGETALL', P .. 'n'), call('ZCOUNT', P .. 'workers', string.format('(%.0f', now), '+inf'), oldest, now, garbage }
