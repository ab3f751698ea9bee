-- Answers counters, workers there, for each tier (high first) since when its oldest job waits, the time, blobs to delete,
-- the classes of queued jobs that no worker there can do, with how many each has, and isolated jobs that are queued, tenants of which submissions are remembered. Of a tier's tenants the first 64 to be
-- served are looked at; of each, the jobs that are served next.
local oldest = {}
for tier = 2, 0, -1 do
  local first
  for _, name in ipairs(call('ZRANGE', P .. 'turns:' .. tier, 0, 63)) do
    for _, lane in ipairs(call('SMEMBERS', P .. 'lanes:' .. tier .. ':' .. name)) do
      local id = call('ZRANGE', P .. 'queue:' .. tier .. ':' .. name .. ':' .. lane, 0, 0)[1]
      local since = id and tonumber(call('HGET', P .. 'j:' .. id, 'Q'))
      if since and (not first or since < first) then first = since end
    end
  end
  oldest[#oldest + 1] = first or -1
end
local garbage = call('ZCARD', P .. 'garbage') + call('SCARD', P .. 'g')
local unserved, isolated, lanes = {}, 0, call('HGETALL', P .. 'lanes')
for i = 1, #lanes, 2 do
  local class, isolating = string.gsub(lanes[i], '^!', '')
  if isolating == 1 then isolated = isolated + tonumber(lanes[i + 1]) end
  if not is_served(class) then
    unserved[#unserved + 1] = class
    unserved[#unserved + 1] = tonumber(lanes[i + 1])
  end
end
local there = call('ZCOUNT', P .. 'workers', string.format('(%.0f', now), '+inf')
return { call('HGETALL', P .. 'n'), there, oldest, now, garbage, unserved, isolated, call('ZCARD', P .. 'holders') }
