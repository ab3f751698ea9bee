-- The length of the lease, and how many in a row its holder was given because the store had been away.
ALTER TABLE jobs ADD COLUMN lease_ms INTEGER;
ALTER TABLE jobs ADD COLUMN graces INTEGER NOT NULL DEFAULT 0;
-- The leases that were taken back, with what was counted for them (JSON): a holder that turns out to live is uncounted.
ALTER TABLE jobs ADD COLUMN taken_back TEXT;

-- The number of the first segment of the attempt; those of the others follow from it. Segments themselves are kept as
-- events until the job ends, and read from its transcript then.
ALTER TABLE jobs ADD COLUMN segments_from INTEGER;

-- When upkeep was done last, and when the store was found again after a time without: milliseconds, 0 for never.
INSERT INTO counters (name, value) VALUES ('last_tick', 0), ('store_back', 0);

-- How many submissions of each tenant there are, kept by the triggers below.
CREATE TABLE remembered (
    tenant      TEXT    NOT NULL PRIMARY KEY,
    submissions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO remembered (tenant, submissions) SELECT tenant, count(*) FROM submissions GROUP BY tenant;

CREATE TRIGGER submissions_added AFTER INSERT ON submissions BEGIN
    INSERT INTO remembered (tenant, submissions) VALUES (NEW.tenant, 1)
        ON CONFLICT (tenant) DO UPDATE SET submissions = submissions + 1;
END;
CREATE TRIGGER submissions_removed AFTER DELETE ON submissions BEGIN
    UPDATE remembered SET submissions = submissions - 1 WHERE tenant = OLD.tenant;
    DELETE FROM remembered WHERE tenant = OLD.tenant AND submissions = 0;
END;
