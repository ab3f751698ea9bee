-- Jobs that nodes of an earlier version queued, where every worker shared one queue.
-- ARGV: 2 at most, then job and class of each that is to be adopted. Without any: answers some of those that are left, each
-- with what does not move of it, from which the caller tells the class.
local most, found = tonumber(ARGV[2]), {}

local function look(queue)
  for _, id in ipairs(call('ZRANGE', queue, 0, most - #found - 1)) do
    found[#found + 1] = { id, call('GET', P .. 'd:' .. id) or '' }
  end
end

if #ARGV == 2 then
  for tier = 0, 2 do
    if #found < most then look(P .. 'u:' .. tier) end
    for _, index in ipairs({ 'a:', 'f:' }) do
      for _, name in ipairs(call('ZRANGE', P .. index .. tier, 0, -1)) do
        if #found == most then return found end
        look(P .. 'q:' .. tier .. ':' .. name)
      end
    end
  end
  return found
end

for i = 3, #ARGV, 2 do
  local job = load(ARGV[i])
  if job and job.f.s == 'q' then
    leave_queue(job)
    if ARGV[i + 1] ~= '*' then put(job, 'K', ARGV[i + 1]) end
    queue_up(job)
    woken = true
    save(job)
  end
end
flush()
return {}
