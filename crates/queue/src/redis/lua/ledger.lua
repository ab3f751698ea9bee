-- What the scripts of the ledger share. Days are kept for 400 days, the charges of single jobs for as many as a job may be
-- charged again, which the caller says: each day that is looked at costs a call.
local today = math.floor(now / 86400000)
local KEPT_DAYS = 400

-- Sums stay below 2^53, up to where Lua counts exactly.
local function plus(a, b)
  return math.max(0, math.min(9000000000000000, a + b))
end

local function number_of(key, field)
  return tonumber(call('HGET', key, field)) or 0
end

local function add(key, field, by)
  local sum = plus(number_of(key, field), by)
  if sum == 0 then call('HDEL', key, field) else call('HSET', key, field, whole(sum)) end
end

-- An entry: a job's ULID, the number of a lease, a provider.
local function entry_of(job, fence, provider)
  return job .. ':' .. fence .. ':' .. provider
end

-- The entries for which a job has something put aside, each a line.
local function reserved_for(job)
  return call('HGET', P .. 'reserved:jobs', job) or ''
end

local function note_reserved(job, lines)
  if lines == '' then call('HDEL', P .. 'reserved:jobs', job) else call('HSET', P .. 'reserved:jobs', job, lines) end
end

-- Gives back what is put aside for this entry.
local function give_back(entry)
  local job, others = string.match(entry, '^(.-):'), {}
  for line in string.gmatch(reserved_for(job), '[^\n]+') do
    if line ~= entry then others[#others + 1] = line .. '\n' end
  end
  note_reserved(job, table.concat(others))
  local kept = call('HGET', P .. 'reserved', entry)
  if not kept then return end
  local cost, whose, provider = string.match(kept, '^(.-)|(.-)|(.*)$')
  add(P .. 'reserved:sums', 'p' .. provider, -tonumber(cost))
  add(P .. 'reserved:sums', 't' .. whose, -tonumber(cost))
  call('HDEL', P .. 'reserved', entry)
  call('ZREM', P .. 'reserved:end', entry)
end

-- Gives back what leases before this one put aside for the job.
local function give_back_older(job, fence)
  for entry in string.gmatch(reserved_for(job), '[^\n]+') do
    if tonumber(string.match(entry, '^.-:(.-):')) < tonumber(fence) then give_back(entry) end
  end
end

-- The charges of a job on a day, each a line.
local function charges_of(job, day)
  return call('HGET', P .. 'charged:' .. whole(day), job) or ''
end

local function is_charged(job, fence, provider, kept)
  for day = today, today - tonumber(kept), -1 do
    for line in string.gmatch(charges_of(job, day), '[^\n]+') do
      local its_fence, its_provider = string.match(line, '^(.-)|.-|.-|.-|(.*)$')
      if its_fence == fence and its_provider == provider then return true end
    end
  end
  return false
end
