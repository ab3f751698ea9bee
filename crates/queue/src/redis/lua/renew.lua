-- ARGV: 2 lease, then job, fence and nonce of each. Answers a list: the new end, -1 to cancel, -2 lost.
local expires, answers, workers = now + tonumber(ARGV[2]), {}, {}
for i = 3, #ARGV, 3 do
  local id, fence, nonce = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local f = call('HMGET', P .. 'j:' .. id, 's', 'f', 'n', 'x', 'w', 'G', 'B')
  local held = f[1] == 'r' and f[2] == fence and f[3] == nonce
  -- It was taken back from a worker that lives.
  if not held and f[7] then held = is_held_again(load(id), fence, nonce) end
  if held then
    call('HSET', P .. 'j:' .. id, 'L', expires)
    call('ZADD', P .. 'run', expires, id)
    if f[6] then call('HDEL', P .. 'j:' .. id, 'G') end
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
flush()
return answers
