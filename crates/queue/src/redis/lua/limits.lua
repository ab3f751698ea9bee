-- What the scripts of the limiter share. It counts as `src/limiter.rs` does; see there.
local MINUTE, SECOND, NEVER = 60000, 1000, 86400000
-- Tokens are counted in parts, so that what is refilled in a millisecond is whole.
local TOKEN = 60000

-- Forgets the requests of a list that are `span` ago, and answers how many are left.
local function requests(key, span)
  local last = tonumber(call('LINDEX', key, -1))
  if not last then return 0 end
  if last > now then
    -- The clock was put back. What was asked counts from now.
    local early = 0
    while last and last > now do
      call('RPOP', key)
      early, last = early + 1, tonumber(call('LINDEX', key, -1))
    end
    for _ = 1, early do call('RPUSH', key, now_text) end
    last = now
  end
  if last <= now - span then
    call('DEL', key)
    return 0
  end
  local gone, oldest
  repeat
    gone, oldest = 0, call('LRANGE', key, 0, 63)
    while gone < #oldest and tonumber(oldest[gone + 1]) <= now - span do gone = gone + 1 end
    if gone > 0 then call('LTRIM', key, gone, -1) end
  until gone < #oldest
  return call('LLEN', key)
end

-- When one more than `used` requests may have been made within `span`.
local function room_after(key, used, limit, span)
  if used < limit then return 0 end
  local leaves = tonumber(call('LINDEX', key, used - limit))
  return leaves and leaves + span - now or span
end

-- When all of them no longer count.
local function all_after(key, span)
  local last = tonumber(call('LINDEX', key, -1))
  return last and last + span - now or 0
end

-- When a bucket of so many parts holds `wanted`.
local function filled_after(parts, wanted, refill)
  if parts >= wanted then return 0 end
  if refill == 0 then return NEVER end
  return math.min(NEVER, math.ceil((wanted - parts) / refill))
end

-- The bucket as it is now: its parts, and for how long everything is refused.
local function bucket(capacity, refill, cooldown)
  local kept = call('HMGET', P .. 'bucket', 'u', 't', 'c')
  local full = capacity * TOKEN
  if not kept[1] then return full, 0 end
  local parts, at, cool = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
  if at > now then
    -- The clock was put back.
    at, cool = now, now + cool - at
    call('HSET', P .. 'bucket', 't', now_text, 'c', whole(cool))
  end
  return math.min(full, parts + (now - at) * refill), math.max(0, math.min(cooldown, cool - now))
end
