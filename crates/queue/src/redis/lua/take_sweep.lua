-- ARGV: 2 node, 3 turn. Answers whether the node sweeps now.
local state = call('HMGET', P .. 'blobs', 'sweeper', 'turn', 'quiet')
if now < (tonumber(state[3]) or 0) then return 0 end
if state[1] and state[1] ~= ARGV[2] and now < tonumber(state[2]) then return 0 end
call('HSET', P .. 'blobs', 'sweeper', ARGV[2], 'turn', whole(now + tonumber(ARGV[3])))
return 1
