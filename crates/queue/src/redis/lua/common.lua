-- What every script shares. Each operation is `guard.lua`, this text, `ends.lua`, `turns.lua` and its own: one script, one atomic step.
--
-- P is the prefix of all keys of the queue with its hash tag, `{verbatim}:`, so that every key that a script makes of it
-- lies in the same slot of a cluster. KEYS[1] is the one that always exists, `layout`. ARGV[1] is the time in milliseconds, empty for the server's own. Ids are
-- the 26 characters behind their prefix. Tiers: 2 high, 1 normal, 0 low. Scripts check everything before they write.
--
--   layout             string how the queue is laid out: see `layout.rs`
--   store              string which store this is: 26 characters, made with it
--   offers             hash   what workers offer (JSON), once for all that say the same: by the worker that said it last; those
--                             of nodes of before, by worker
--   offers:under       hash   digest of what all of them say -> that worker
--   offers:at          zset   digests by the time of the last announcement
--   offers:of          hash   worker -> digest
--   offers:by:<digest> zset   workers that say this, by the time at which each did last
--   offers:looked      string when a walk over all offers began last, and while it goes on how far it has come: `millis:cursor`
--   j:<job>            hash   what moves of a job; every value is short, so that the hash stays compact
--   d:<job>            string what does not move: JSON that only Rust reads
--   e:<job>            zset   decoded segments by event number, until the job ends: `number|millis|json`
--   hs:<job>           list   checkpoint: what it is without its segments (JSON), then each of these (JSON). Expires long after the job
--                             may need it, for nodes of before leave it behind
--   h:<job>            string checkpoint of a node of before, with its segments (JSON)
--   m:<job>            set    its submissions beyond the first, which is in the hash
--   s:<submission>     hash   a submission
--   i:<tenant>:<key>   string idempotency: `submission|expires|digest`
--   ie                 zset   the same by expiry
--   l:<tenant>         zset   submissions of a tenant by id
--   holders            zset   tenants that have any, by the time at which upkeep last saw that they do: nodes of before neither
--                             add a tenant nor remove it
--   y                  zset   submissions by deadline
--   w                  hash   dedupe key -> job: the live one, else the completed one that may answer
--   queue:<tier>:<tenant>:<lane>  zset  queued jobs by position; a lane is a class, or `!` and a class for isolated jobs
--   lanes:<tier>:<tenant>  set  lanes in which the tenant has queued jobs
--   turns:<tier>       zset   tenants that can be served, by start tag
--   turns:<tier>:<lane>  zset  those of them that have jobs in the lane, by the same
--   lanes:<tier>       set    lanes in which a tenant can be served
--   lanes              hash   queued jobs by lane
--   f:<tier>           zset   finish tags of the other tenants
--   abilities          zset   what workers can do: digests, by the time until which a worker that can do it counts as there;
--                             `*` for everything
--   abilities:<digest> set    the classes that are meant
--   reservations       hash   worker -> lane: busy workers that get nothing until they are idle and take a job from the lane
--   reservations:end   zset   the same workers, by the time at which the reservation lapses
--   q:<tier>:<tenant>, a:<tier>, u:<tier>, uq  zset  the queues of earlier versions, which every worker shared; upkeep adopts
--                             what is in them
--   walk               string how far upkeep has come on its walk over all jobs (cursor in `z`), see `lua/adopt.lua`
--   run, delayed, dlq  zset   by end of lease, by due time, by time of failure
--   c:<id>             string the call that deleted the submission or moved the dead letter last, for a minute: `call|answer`
--   z                  zset   jobs by the time at which they end or are forgotten
--   r:<worker>         set    what a worker holds
--   k:<worker>         hash   its last claim that got a job: nonce (n), job (j); digest of its abilities (d)
--   workers            zset   by the time until which they count as there
--   t:<tenant>         hash   running (r), waiting (w), caps in force (mr, mq): those of the newest submission, where a node of
--                             before wrote them last
--   caps               hash   caps of tenants that no submission lifts: `mr|mq`
--   own                hash   caps that tenants have of their own (JSON), beside their keys
--   own:changes        string how often one of them changed
--   v                  hash   virtual times, shares of the tiers, ends of the queue
--   n                  hash   counters
--   blobs              hash   mark, of which the marker in the blob store holds a copy; sweeper and the end of its turn
--                             (turn); end of the time without sweeps (quiet)
--   garbage            zset   blobs to delete, by the time since when no job needs them (0: the client removed it), or, once
--                             they were taken, by that plus how long they are held
--   garbage:takes      hash   how often each was taken
--   g                  set    blobs to delete, of nodes of before; emptied into `garbage`
--   tick               hash   who ticked last (node), when (at), when the store was found again after a silence (back), how
--                             many leases turned out since to have been taken from a worker that lives (revived). What is
--                             told until a node says that it has heard it: its number (outage), milliseconds of an outage
--                             (away), and how many such leases there were (told)
--   tick:standby       zset   nodes that take over when that one is silent, by the time until which they count
--
-- The fields of a job, `j:`. Times are milliseconds since the epoch, flags are 1 or absent.
--   t    tenant                                  k    dedupe key
--   s    state: q queued, d delayed, r running, c completed, f failed, x cancelled
--   K    class: what its worker must be able to do; absent: `*`, every worker is asked
--   p    tier                                    o    place in its queue; less is sooner
--   e    seconds of audio: estimated, in the end what there were
--   c    time of submission                      z    time at which it is too old
--   Q    since when it is queued                 R    delayed: when it is queued again
--   a    attempts, the one under way with them
--   D    workers that died while they held it    C    workers that died while they held nothing else; neither counts
--                                                     a death under a lease under which `cm` moved
--   u    flag: isolated, it must run alone       x    flag: it is to be cancelled
--   f    fence of the last lease                 n    nonce of the claim that got it
--   w    worker of the last lease                L    end of the lease
--   W    flag: that worker lost another job while it held this one
--   ct   tier that the last claim was charged to cc   seconds that it was charged
--   P    last finish: `call|fence|nonce|state`   S    when it was begun first
--   st   stage                                   pr   progress, 0 to 1; absent: 0
--   g    engine asked for, then the one that answered
--   mo   model that answered                     dm   milliseconds of audio, once decoded
--   fi   what was noticed in the audio (JSON); absent: nothing
--   ck   the checkpoint in `hs:`: digest of its segments, how many, milliseconds of audio, as `digest|segments|millis`
--   cp   flag: there is one in `h:`              E    failure (JSON)
--   cm   milliseconds of audio that checkpoints covered at most, and cf the fence under which that moved last
--   l    length of the last lease (milliseconds) G    leases in a row that were given because the store had been away
--   B    leases that were taken back, see `lua/leases.lua`
--   r    result; `~` stands for `results/<rs>/work_<job>/`
--   rs   id of the store in its name; absent in those of before
--   b    blob of the audio where that is not `audio/<job>`
--   F    when it ended                           X    when it is forgotten
--   s1   its first submission                    nt   submissions there are
--   nl   submissions that wait for it
-- Its events have the numbers up to `ls`; what each says:
--   qs qa qt     queued: number, attempts, time  ss sa sT     started: the same
--   sq   of a completed job: the number of its last start, where that is not right before its first segment's; its time is that
--        in S where sT is absent
--   ps ep eg pT  progress: number, progress, stage, time
--   ns   segments: of this attempt so far, then of the transcript
--   es   number of its end
--   sb   number of this attempt's first segment, as `fence:number`; those of the others follow from it
--
-- The fields of a submission, `s:`.
--   j    job                                     t    tenant
--   c    time of submission                      d    deadline (time)
--   f    number of the first event that it shows m    metadata (JSON)
--   h    flag: answered from a finished job      u    flag: attached to a live one
--   i    idempotency key                         x    how it ended apart from its job: c cancelled, e too late
--   y    when it did                             z    number of that event
--
-- What providers share (`lua/values.lua`, `lua/ledger.lua`, `lua/limits.lua`); days are counted since the epoch:
--   value:<name>       hash   a shared value: its version (v), itself (b), its end (e)
--   values             zset   names of shared values, in order
--   values:end         zset   the same by end
--   values:last        string the last version that was given
--   reserved           hash   money put aside, by entry (`job:fence:provider`): `cost|tenant|provider`
--   reserved:end       zset   entries by the time at which it is given back
--   reserved:jobs      hash   by job: its entries, each a line
--   reserved:sums      hash   what is put aside by provider (p<name>) and tenant (t<name>)
--   spent:<day>        hash   what was spent by provider (p<name>) and tenant (t<name>)
--   day:<day>          hash   by `tenant:provider`: `jobs|billed|unpriced|cost`
--   charged:<day>      hash   by job: a line for each charge, `fence|billed|cost|tenant|provider`; forgotten when a day begins
--                             on which none of these jobs may be charged again
--   days, chargeddays  zset   days of which there is something
--   window:<tenant>    list   times of a tenant's requests of the last minute
--   windows            zset   tenants by the time at which the last of these no longer counts
--   burst              list   times of everybody's requests of the last second
--   bucket             hash   the project's tokens: how many 60,000ths (u) there were when (t); end of the cooldown (c)
if there == 0 then return redis.error_reply('STOREGONE the queue is not in this Redis any more') end
local call = redis.call
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whole numbers as text: much faster than what Redis makes of a Lua number.
local format = string.format
local function whole(number)
  return format('%d', number)
end
local now_text = whole(now)

local counted, tenants, clocks, news, woken = {}, {}, {}, {}, false

local function count(name, by)
  counted[name] = (counted[name] or 0) + by
end

-- Of two caps the stricter one.
local function strictest(a, b)
  return a and b and math.min(a, b) or a or b
end

-- The caps of a tenant that no submission lifts.
local function caps_of(name)
  local running, waiting = string.match(call('HGET', P .. 'caps', name) or '', '^(%d*)|(%d*)$')
  return tonumber(running), tonumber(waiting)
end

local function tenant(name)
  local known = tenants[name]
  if not known then
    local stored = call('HMGET', P .. 't:' .. name, 'r', 'w', 'mr', 'mq')
    known = { r = tonumber(stored[1]) or 0, w = tonumber(stored[2]) or 0 }
    -- A node of an earlier version writes only what its last submission brought.
    local brought_running, brought_waiting, running, waiting = tonumber(stored[3]), tonumber(stored[4]), caps_of(name)
    known.mr, known.mq = strictest(brought_running, running), strictest(brought_waiting, waiting)
    known.changed = known.mr ~= brought_running or known.mq ~= brought_waiting
    tenants[name] = known
  end
  return known
end

local function at_cap(known)
  return known.mr ~= nil and known.r >= known.mr
end

-- A number of the hash `v`.
local function clock(name)
  if not clocks[name] then
    clocks[name] = { value = tonumber(call('HGET', P .. 'v', name)) or 0 }
  end
  return clocks[name].value
end

local function set_clock(name, value)
  clocks[name] = { value = value, changed = true }
end

-- Changes to an index that nothing in this script reads again, made in one command for all jobs.
local pending = {}
local function later(command, index, ...)
  local name = command .. index
  local change = pending[name]
  if not change then
    change = { command, P .. index }
    pending[name] = change
  end
  for i = 1, select('#', ...) do change[#change + 1] = (select(i, ...)) end
end

local function catch_up()
  for _, change in pairs(pending) do call(unpack(change)) end
  pending = {}
end

-- Writes what was gathered, and tells who waits. The last line of every script that writes.
local function flush()
  catch_up()
  for name, by in pairs(counted) do
    if by ~= 0 then call('HINCRBY', P .. 'n', name, whole(by)) end
  end
  for name, known in pairs(tenants) do
    if known.changed then
      if known.r == 0 and known.w == 0 and not known.mr and not known.mq then
        call('DEL', P .. 't:' .. name)
      else
        call('HSET', P .. 't:' .. name, 'r', whole(known.r), 'w', whole(known.w), 'mr', known.mr or '', 'mq', known.mq or '')
      end
    end
  end
  local changed = {}
  for name, entry in pairs(clocks) do
    if entry.changed then
      changed[#changed + 1] = name
      changed[#changed + 1] = whole(entry.value)
    end
  end
  if #changed > 0 then call('HSET', P .. 'v', unpack(changed)) end
  local ids = {}
  for id in pairs(news) do ids[#ids + 1] = id end
  if #ids > 0 then call('PUBLISH', P .. 'news', table.concat(ids, ',')) end
  if woken then call('PUBLISH', P .. 'work', '1') end
end

local function table_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

local function flat_of(fields)
  local flat = {}
  for name, value in pairs(fields) do
    flat[#flat + 1] = name
    flat[#flat + 1] = type(value) == 'number' and whole(value) or value
  end
  return flat
end

-- A job: its fields, and which of them have changed.
local function load(id)
  local flat = call('HGETALL', P .. 'j:' .. id)
  if #flat == 0 then return nil end
  return { id = id, f = table_of(flat), set = {}, at = 0 }
end

-- The same with these fields only: for the scripts that run most.
local function load_some(id, fields)
  local values = call('HMGET', P .. 'j:' .. id, unpack(fields))
  local f = {}
  for i = 1, #fields do
    if values[i] then f[fields[i]] = values[i] end
  end
  if next(f) == nil then return nil end
  return { id = id, f = f, set = {}, at = 0 }
end

-- The first of a job's fields that is not what scripts calculate with; nothing where all are. Asked before the first write, so
-- that a job that cannot be read keeps its place whole. A state that only a newer version knows is no state. `held`: it was
-- claimed, and its tenant charged.
local STATES = { q = true, d = true, r = true, c = true, f = true, x = true }
local STATES_OVER = { c = true, f = true, x = true }
local TEXTS, NUMBERS, NUMBERS_LIVE, NUMBERS_HELD = { 's', 't', 'k' }, { 'ls', 'nl', 'p' }, { 'a', 'e', 'f', 'o', 'z' }, { 'cc', 'ct' }
local NUMBERS_IF_THERE = { 'C', 'D', 'G', 'R', 'cm', 'l', 'ns', 'nt' }
local function no_number(f, names)
  for i = 1, #names do
    if not tonumber(f[names[i]]) then return names[i] end
  end
end

local function broken_field(job, held)
  local f = job.f
  for i = 1, #TEXTS do
    if not f[TEXTS[i]] then return TEXTS[i] end
  end
  if not STATES[f.s] then return 's' end
  for i = 1, #NUMBERS_IF_THERE do
    local name = NUMBERS_IF_THERE[i]
    if f[name] and not tonumber(f[name]) then return name end
  end
  local broken = no_number(f, NUMBERS) or not STATES_OVER[f.s] and no_number(f, NUMBERS_LIVE)
  if not broken and held then broken = not f.w and 'w' or not f.n and 'n' or no_number(f, NUMBERS_HELD) end
  return broken or nil
end

-- The same for a script that adds or takes away submissions of the job, or moves it by hand.
local function broken_as_a_whole(job)
  return broken_field(job) or no_number(job.f, { 'nt' }) or STATES_OVER[job.f.s] and no_number(job.f, { 'F', 'X' }) or nil
end

-- Ends the script, or in `try` the work on one record. Only called before the first write. The first word tells Rust what it is.
local function refuse(id, what)
  error({ err = 'UNREADABLE ' .. id .. ': ' .. what })
end

-- The job of a submission, or of a call about it, whole.
local function load_whole(id)
  local job = id and load(id)
  if not job then refuse(id or 'a job', 'it is not there') end
  local broken = broken_as_a_whole(job)
  if broken then refuse(id, 'field ' .. broken) end
  return job
end

-- The job of a submission as it is, for those who only look.
local function load_any(sub)
  local job = sub.j and load(sub.j)
  return job or refuse(sub.j or sub.id, 'its job is not there')
end

-- The dead letter, whole; nothing where there is none.
local function load_dead_letter(id)
  local state = call('HGET', P .. 'j:' .. id, 's')
  return state == 'f' and load_whole(id) or nil
end

-- Works on one record of several. An error ends the work on this one only. Answers why it did, or nothing.
local function try(work, ...)
  local done, problem = pcall(work, ...)
  if done then return nil end
  return (string.gsub(type(problem) == 'table' and problem.err or tostring(problem), '^UNREADABLE [^:]*: ', ''))
end

-- What is put last counts, in Redis as well.
local function put(job, field, value)
  if type(value) == 'number' then value = whole(value) end
  job.f[field] = value
  local set, at = job.set, job.at
  set[at + 1], set[at + 2], job.at = field, value, at + 2
end

-- Removes a field. Happens when a job changes its course, so it may cost a call of its own.
local function drop(job, field)
  if job.f[field] == nil then return end
  job.f[field] = nil
  for i = job.at - 1, 1, -2 do
    if job.set[i] == field then
      table.remove(job.set, i)
      table.remove(job.set, i)
      job.at = job.at - 2
    end
  end
  call('HDEL', P .. 'j:' .. job.id, field)
end

-- Removes these fields, whether or not they were loaded, in one call.
local function drop_all(job, fields)
  local dropped = {}
  for _, field in ipairs(fields) do
    dropped[field] = true
    job.f[field] = nil
  end
  local set, at = {}, 0
  for i = 1, job.at, 2 do
    if not dropped[job.set[i]] then
      set[at + 1], set[at + 2], at = job.set[i], job.set[i + 1], at + 2
    end
  end
  job.set, job.at = set, at
  call('HDEL', P .. 'j:' .. job.id, unpack(fields))
end

local function save(job)
  if job.at > 0 then call('HSET', P .. 'j:' .. job.id, unpack(job.set, 1, job.at)) end
  job.set, job.at = {}, 0
end

-- The next number of the job's story. Its watchers look again.
local function next_seq(job)
  put(job, 'ls', tonumber(job.f.ls or 0) + 1)
  news[job.id] = true
  return job.f.ls
end

local function note_queued(job)
  put(job, 'qs', next_seq(job))
  put(job, 'qa', job.f.a)
  put(job, 'qt', now_text)
end

local function note_started(job)
  put(job, 'ss', next_seq(job))
  put(job, 'sa', job.f.a)
  put(job, 'sT', now_text)
end

-- The number of this attempt's first segment, if there is one.
local function first_segment(job)
  local fence, first = string.match(job.f.sb or '', '^(.-):(.*)$')
  return fence == job.f.f and tonumber(first) or nil
end

local function blob_of(job)
  return job.f.b or ('audio/' .. job.id)
end

-- A result under its usual name is kept by the end of that name, and the id of the store that is in it (rs), so that the
-- hash stays compact.
local function result_of(job)
  local short = job.f.r and string.match(job.f.r, '^~(.*)')
  if not short then return job.f.r end
  return 'results/' .. (job.f.rs and job.f.rs .. '/' or '') .. 'work_' .. job.id .. '/' .. short
end

local function keep_result(job, result)
  local store, short = string.match(result, '^results/(%w*)/?work_' .. job.id .. '/(.*)$')
  if store and store ~= '' then put(job, 'rs', store) end
  put(job, 'r', short and '~' .. short or result)
end

-- In `turns.lua`.
local review, queue_up, unqueue, leave_queue, charge, settle, position, is_there, is_served

-- Takes the job out of the index of its state.
local function leave(job)
  local f = job.f
  local known = tenant(f.t)
  known.changed = true
  if f.s == 'q' then
    count('q' .. f.p, -1)
    known.w = known.w - 1
    leave_queue(job)
  elseif f.s == 'd' then
    count('d', -1)
    known.w = known.w - 1
    call('ZREM', P .. 'delayed', job.id)
  elseif f.s == 'r' then
    count('r', -1)
    later('ZREM', 'run', job.id)
    later('SREM', 'r:' .. f.w, job.id)
    drop(job, 'W')
    drop(job, 'G')
    known.r = known.r - 1
    if known.mr then review(f.t) end
  else
    count(f.s, -1)
    if f.s == 'f' then call('ZREM', P .. 'dlq', job.id) end
  end
end

-- Makes the job claimable. It must be in no index.
local function enqueue(job)
  local f = job.f
  put(job, 's', 'q')
  count('q' .. f.p, 1)
  local known = tenant(f.t)
  known.w, known.changed = known.w + 1, true
  queue_up(job)
  woken = true
end

-- Lets the job wait again, at its old place, once `delay` is over.
local function wait_again(job, delay)
  leave(job)
  drop(job, 'pr')
  put(job, 'st', 'queued')
  if delay <= 0 then
    put(job, 'Q', now_text)
    enqueue(job)
  else
    put(job, 's', 'd')
    put(job, 'R', now + delay)
    count('d', 1)
    local known = tenant(job.f.t)
    known.w, known.changed = known.w + 1, true
    call('ZADD', P .. 'delayed', job.f.R, job.id)
  end
  note_queued(job)
end

-- What Rust makes a submission's view of: its fields, its job's, what does not move, the place in the queue, and whether
-- no worker that is there can do it.
local function view(sub, job, place)
  local waits = (job.f.s == 'q' or job.f.s == 'd') and not is_served(job.f.K or '*')
  return { flat_of(sub), flat_of(job.f), call('GET', P .. 'd:' .. job.id) or '', place or -1, job.id, waits and 1 or 0 }
end
