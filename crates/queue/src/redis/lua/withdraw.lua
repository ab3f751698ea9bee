-- ARGV: 2 worker.
local digest = call('HGET', P .. 'offers:of', ARGV[2])
if digest then take_back(ARGV[2], digest) end
-- As a node of an earlier version announced it.
call('HDEL', P .. 'offers', ARGV[2])
return 1
