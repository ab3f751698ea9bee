-- ARGV: from 2 on name, most running and most waiting of each tenant, empty for no cap. Answers how many of them are at their
-- caps: of running jobs, of waiting ones.
local running_at_cap, waiting_at_cap = 0, 0
for i = 2, #ARGV, 3 do
  local name, running, waiting = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local whose, kept = tenant(name), running .. '|' .. waiting
  if kept == '|' then
    call('HDEL', P .. 'caps', name)
  elseif call('HGET', P .. 'caps', name) ~= kept then
    call('HSET', P .. 'caps', name, kept)
  end
  local most_running, most_waiting = tonumber(running), tonumber(waiting)
  if whose.mr ~= most_running or whose.mq ~= most_waiting then
    local could_run_more = not at_cap(whose)
    whose.mr, whose.mq, whose.changed = most_running, most_waiting, true
    review(name)
    if not at_cap(whose) and not could_run_more then woken = true end
  end
  if at_cap(whose) then running_at_cap = running_at_cap + 1 end
  if whose.mq and whose.w >= whose.mq then waiting_at_cap = waiting_at_cap + 1 end
end
flush()
return { running_at_cap, waiting_at_cap }
