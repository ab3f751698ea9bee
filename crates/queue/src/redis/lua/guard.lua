-- Whether the queue is here, and whole: before anything else in every script.
--
-- KEYS[1] is `{prefix}:layout`, a key that exists as long as the queue does; `-` never exists. While the slot of both moves
-- between two nodes of a cluster, the one that gives it away refuses to look for a key that it does not have, and the one
-- that takes it refuses to look for two keys of which it lacks one. A script that went on there would take for absent
-- what lies on the other node.
local P = string.sub(KEYS[1], 1, -7)
local there = redis.pcall('EXISTS', KEYS[1], P .. '-')
if type(there) == 'table' then return redis.error_reply('SLOTMOVES ' .. there.err) end
