-- ARGV: 2 number of the news that a node has heard: nobody else is told them.
if call('HGET', P .. 'tick', 'outage') ~= ARGV[2] then return 0 end
call('HDEL', P .. 'tick', 'outage', 'away', 'told')
return 1
