-- What becomes of leases that lapsed: one more lease when the store had been away, and the way back for a worker that was
-- thought dead. And what the work under them has left behind.

-- The length of a lease that a node of an older version gave, which did not write it down.
local USUAL_LEASE = 30000

local function whole_lease(job)
  return tonumber(job.f.l) or USUAL_LEASE
end

-- The checkpoint in `hs:`, as `digest|segments`, and how much of the audio it covers; nothing where it is not whole.
local function kept_checkpoint(job)
  local mark, count, millis = string.match(job.f.ck or '', '^(%x+|(%d+))|(%d+)$')
  if mark and call('LLEN', P .. 'hs:' .. job.id) == tonumber(count) + 1 then return mark, tonumber(millis) end
end

-- Gives the holder of a lapsed lease a whole lease from the moment in which the store came back: until then nobody could
-- renew. At most so many times in a row. Answers whether it did.
local function is_given_grace(job, back, most)
  local until_then, graces = back + whole_lease(job), tonumber(job.f.G) or 0
  if now >= until_then or graces >= most then return false end
  put(job, 'L', until_then)
  put(job, 'G', graces + 1)
  call('ZADD', P .. 'run', until_then, job.id)
  save(job)
  return true
end

-- The leases that were taken back are remembered by what was counted for them, `fence|nonce|death|crash|isolating`: 1 where
-- it was counted as a death, as a crash, and where the job is isolated since. `before` has what was counted before.
local function note_taken_back(job, before)
  local function more(field) return tonumber(job.f[field] or 0) > tonumber(before[field] or 0) and 1 or 0 end
  local entry = table.concat({ job.f.f, job.f.n, more('D'), more('C'), more('u') }, '|')
  put(job, 'B', job.f.B and job.f.B .. ',' .. entry or entry)
end

local function taken_back(job)
  local leases = {}
  for fence, nonce, death, crash, isolating in string.gmatch(job.f.B or '', '([^|,]*)|([^|,]*)|(%d)|(%d)|(%d)') do
    leases[#leases + 1] = { fence, nonce, death, crash, isolating }
  end
  return leases
end

-- The fence of a lease that was taken back, by the nonce of the claim that got it.
local function fence_taken_back(job, nonce)
  for _, lease in ipairs(taken_back(job)) do
    if lease[2] == nonce then return lease[1] end
  end
end

-- A job stops being isolated when the deaths that isolated it turn out to be fewer: the death `at` was none. If there was
-- another one after that which isolated it, that one would have done so.
local function is_still_isolated(leases, at)
  local isolating = false
  for i, lease in ipairs(leases) do
    if isolating and lease[3] == '1' then
      lease[5] = '1'
      return true
    end
    if lease[5] == '1' then
      if i < at then return true end
      lease[5], isolating = '0', true
    end
  end
  return not isolating
end

-- Takes back what was counted when this lease was taken back: its holder has shown that it lives. Answers whether the
-- lease was known.
local function is_uncounted(job, fence, nonce)
  local leases, at = taken_back(job), nil
  for i, lease in ipairs(leases) do
    if lease[1] == fence and lease[2] == nonce then at = i end
  end
  if not at then return false end
  local queued = job.f.s == 'q'
  if leases[at][4] == '1' then put(job, 'C', math.max(0, tonumber(job.f.C) - 1)) end
  if leases[at][3] == '1' then
    put(job, 'D', math.max(0, tonumber(job.f.D) - 1))
    if job.f.u and not is_still_isolated(leases, at) then
      if queued then leave(job) end
      drop(job, 'u')
      if queued then enqueue(job) end
    end
  end
  table.remove(leases, at)
  for i, lease in ipairs(leases) do leases[i] = table.concat(lease, '|') end
  if #leases > 0 then put(job, 'B', table.concat(leases, ',')) else drop(job, 'B') end
  return true
end

-- What the holder of a lease that is not the current one hears. When its job waits and nobody has taken it since, it goes
-- on: the job is running again, under the same fence. When another worker has it, no more is done than to uncount the
-- crash. Answers whether the lease is held again.
local function is_held_again(job, fence, nonce)
  if job.f.s == 'c' or job.f.s == 'f' or job.f.s == 'x' then return false end
  local is_last = job.f.f == fence and job.f.n == nonce
  if fence_taken_back(job, nonce) ~= fence then return false end
  local broken = broken_field(job, true)
  if broken then refuse(job.id, 'field ' .. broken) end
  if not is_uncounted(job, fence, nonce) then return false end
  call('HINCRBY', P .. 'tick', 'revived', 1)
  if not is_last then
    save(job)
    return false
  end
  leave(job)
  local whose = tenant(job.f.t)
  whose.r, whose.changed = whose.r + 1, true
  count('r', 1)
  put(job, 's', 'r')
  put(job, 'a', tonumber(job.f.a) + 1)
  put(job, 'L', now + whole_lease(job))
  call('ZADD', P .. 'run', job.f.L, job.id)
  call('SADD', P .. 'r:' .. job.f.w, job.id)
  call('ZADD', P .. 'workers', 'GT', job.f.L, job.f.w)
  news[job.id] = true
  save(job)
  if at_cap(whose) then review(job.f.t) end
  return true
end
