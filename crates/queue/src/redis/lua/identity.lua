-- Answers the store's id, empty while it has none, and its mark.
return { call('GET', P .. 'store') or '', tonumber(call('HGET', P .. 'blobs', 'mark')) or 0 }
