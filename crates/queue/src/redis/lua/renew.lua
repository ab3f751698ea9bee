-- ARGV: 2 lease, then job, fence and nonce of each. Answers a list: the new end, -1 to cancel, -2 lost.
local expires, answers, workers = now + tonumber(ARGV[2]), {}, {}
for i = 3, #ARGV, 3 do
  local f = call('HMGET', P .. 'j:' .. ARGV[i], 's', 'f', 'n', 'x', 'w')
  if f[1] == 'r' and f[2] == ARGV[i + 1] and f[3] == ARGV[i + 2] then
    call('HSET', P .. 'j:' .. ARGV[i], 'L', expires)
    call('ZADD', P .. 'run', expires, ARGV[i])
    workers[f[5]] = true
    answers[#answers + 1] = f[4] and -1 or expires
  else
    answers[#answers + 1] = -2
  end
end
for worker in pairs(workers) do
  call('ZADD', P .. 'workers', expires, worker)
  local abilities = call('HGET', P .. 'k:' .. worker, 'd')
  if abilities then is_there(abilities, expires) end
end
return answers
