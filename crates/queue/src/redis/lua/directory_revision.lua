-- How often a key was made or revoked, each of which adds a field that stays, or a tenant's own caps changed.
return call('HLEN', P .. 'keys') + (tonumber(call('GET', P .. 'own:changes')) or 0)
