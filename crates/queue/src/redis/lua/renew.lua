-- ARGV: 2 lease, then job, fence and nonce of each. Answers two lists: the new end of each, -1 to cancel, -2 lost; and why those
-- are lost that cannot be read. Each is renewed by itself.
local expires, answers, workers, unreadable = now + tonumber(ARGV[2]), {}, {}, {}

local function renew(id, fence, nonce)
  local f = call('HMGET', P .. 'j:' .. id, 's', 'f', 'n', 'x', 'w', 'G', 'B')
  local held = f[1] == 'r' and f[2] == fence and f[3] == nonce
  if held and not f[5] then refuse(id, 'field w') end
  -- It was taken back from a worker that lives.
  if not held and f[7] then held = is_held_again(load(id), fence, nonce) end
  if not held then return -2 end
  call('HSET', P .. 'j:' .. id, 'L', expires)
  call('ZADD', P .. 'run', expires, id)
  if f[6] then call('HDEL', P .. 'j:' .. id, 'G') end
  workers[f[5]] = true
  return f[4] and -1 or expires
end

for i = 3, #ARGV, 3 do
  local at = #answers + 1
  answers[at] = -2
  local problem = try(function() answers[at] = renew(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end)
  if problem then unreadable[#unreadable + 1] = ARGV[i] .. ': ' .. problem end
end
for worker in pairs(workers) do
  call('ZADD', P .. 'workers', expires, worker)
  local abilities = call('HGET', P .. 'k:' .. worker, 'd')
  if abilities then is_there(abilities, expires) end
end
flush()
return { answers, unreadable }
