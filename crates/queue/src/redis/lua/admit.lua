-- ARGV: 2 tenant, 3 its requests in a minute, then the project's 4 capacity, 5 refill in a minute, 6 burst, 7 cooldown
-- (empty: no limit). Answers allowed (1 or 0), whose limit speaks (1 tenant, 2 project), limit, requests left, when there is
-- room, when all of it is there.
local mine, limit = P .. 'window:' .. ARGV[2], tonumber(ARGV[3])
local capacity, refill, burst, cooldown = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local everybody = P .. 'burst'

local used = limit and requests(mine, MINUTE)
local together, parts, cooling
if capacity then
  together = requests(everybody, SECOND)
  parts, cooling = bucket(capacity, refill, cooldown)
end

local function tenant_waits()
  return limit and room_after(mine, used, limit, MINUTE) or 0
end

local function project_waits()
  if not capacity then return 0 end
  return math.max(cooling, filled_after(parts, TOKEN, refill), room_after(everybody, together, burst, SECOND))
end

local function tenant_resets()
  return all_after(mine, MINUTE)
end

local function project_resets()
  return math.max(cooling, filled_after(parts, capacity * TOKEN, refill), all_after(everybody, SECOND))
end

local tenant_wait, project_wait = tenant_waits(), project_waits()
if tenant_wait > 0 or project_wait > 0 then
  if tenant_wait >= project_wait then return { 0, 1, limit, 0, tenant_wait, tenant_resets() } end
  return { 0, 2, capacity, 0, project_wait, project_resets() }
end

-- From here on it writes.
if limit then
  call('RPUSH', mine, now_text)
  call('ZADD', P .. 'windows', whole(now + MINUTE), ARGV[2])
  used = used + 1
end
if capacity then
  call('RPUSH', everybody, now_text)
  together, parts = together + 1, parts - TOKEN
  if parts < TOKEN then cooling = cooldown end
  call('HSET', P .. 'bucket', 'u', whole(parts), 't', now_text, 'c', whole(now + cooling))
end

local wait = math.max(tenant_waits(), project_waits())
local tenant_left = limit and limit - used
local project_left = capacity and (cooling > 0 and 0 or math.min(math.floor(parts / TOKEN), burst - together))
if limit and (not capacity or tenant_left <= project_left) then
  return { 1, 1, limit, tenant_left, wait, tenant_resets() }
end
return { 1, 2, capacity, project_left, wait, project_resets() }
