-- A worker is given only what it can do: each tenant's queued jobs stand in lanes. A lane holds the jobs of one class (see
-- verbatim_core::class), or with a `!` before it those of the class that must run alone.

ALTER TABLE jobs ADD COLUMN class TEXT NOT NULL DEFAULT '*';
UPDATE jobs SET class = (options ->> 'engine') || '/' || CASE
    WHEN NOT coalesce(options ->> 'any_model', 0) THEN options ->> 'model'
    WHEN options ->> 'engine' <> 'auto' THEN '*'
    ELSE '*' || iif(coalesce(options ->> 'language', 'en') <> 'en', '+language', '')
             || iif(options ->> 'task' = 'translate', '+translate', '')
             || iif(options ->> 'diarize', '+diarize', '')
    END
WHERE state IN ('queued','delayed','running','failed');
ALTER TABLE jobs ADD COLUMN lane TEXT GENERATED ALWAYS AS (iif(isolated, '!', '') || class) VIRTUAL;

DROP INDEX jobs_queue;
DROP INDEX jobs_suspects;
DROP INDEX jobs_patience;
CREATE INDEX jobs_queue ON jobs (tier, tenant, lane, position) WHERE state = 'queued';
-- `state` makes it cover the counting of places.
CREATE INDEX jobs_places ON jobs (tier, tenant, position, state) WHERE state = 'queued';

-- How many queued jobs a tenant has in each lane; `active` and `tag` are those of its share of the tier, so that the next
-- tenant of a lane is found at once.
CREATE TABLE queues (
    tier   INTEGER NOT NULL CHECK (tier IN (0, 1, 2)),
    tenant TEXT    NOT NULL,
    lane   TEXT    NOT NULL,
    jobs   INTEGER NOT NULL CHECK (jobs > 0),
    active INTEGER NOT NULL DEFAULT 0,
    tag    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tier, tenant, lane)
) STRICT, WITHOUT ROWID;
CREATE INDEX queues_next ON queues (lane, tier, tag, tenant) WHERE active = 1;

INSERT INTO queues (tier, tenant, lane, jobs)
    SELECT tier, tenant, lane, count(*) FROM jobs WHERE state = 'queued' GROUP BY tier, tenant, lane;

-- Queued jobs of each lane.
CREATE TABLE lanes (
    lane TEXT    NOT NULL PRIMARY KEY,
    jobs INTEGER NOT NULL CHECK (jobs > 0)
) STRICT, WITHOUT ROWID;
INSERT INTO lanes (lane, jobs) SELECT lane, sum(jobs) FROM queues GROUP BY lane;

-- The share of a tenant counts isolated jobs too: they are served in turn.
DROP INDEX shares_next;
INSERT INTO shares (tier, tenant, jobs, active, tag)
    SELECT tier, tenant, sum(jobs), 0, 0 FROM queues WHERE true GROUP BY tier, tenant
    ON CONFLICT (tier, tenant) DO UPDATE SET jobs = excluded.jobs;
UPDATE shares SET active = jobs > 0 AND NOT EXISTS (
    SELECT 1 FROM tenants WHERE tenants.tenant = shares.tenant AND running >= max_running);
UPDATE shares SET tag = max(tag, (SELECT value FROM counters WHERE name =
    CASE tier WHEN 0 THEN 'virtual_low' WHEN 1 THEN 'virtual_normal' ELSE 'virtual_high' END)) WHERE active = 1;
UPDATE queues SET (active, tag) = (
    SELECT active, tag FROM shares WHERE shares.tier = queues.tier AND shares.tenant = queues.tenant);

-- Busy workers that get nothing until they are idle, and then a job of the lane.
DROP TABLE reservation;
CREATE TABLE reservations (
    worker TEXT NOT NULL PRIMARY KEY,
    lane   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
