-- ARGV: 2 key. Answers whether there is one. The first revocation stands.
if call('HEXISTS', P .. 'keys', ARGV[2]) == 0 then return 0 end
call('HSETNX', P .. 'keys', ARGV[2] .. ':revoked', string.format('%.0f', now))
return 1
