-- The length of the lease, and how many in a row its holder was given because the store had been away.
ALTER TABLE jobs ADD COLUMN lease_ms INTEGER;
ALTER TABLE jobs ADD COLUMN graces INTEGER NOT NULL DEFAULT 0;
-- The leases that were taken back, with what was counted for them (JSON): a holder that turns out to live is uncounted.
ALTER TABLE jobs ADD COLUMN taken_back TEXT;

-- When upkeep was done last, and when the store was found again after a time without: milliseconds, 0 for never.
INSERT INTO counters (name, value) VALUES ('last_tick', 0), ('store_back', 0);
