-- Tenants share a tier by audio seconds, have caps, and dead letters can be tried again by hand.

-- What the last claim charged, until the job is settled.
ALTER TABLE jobs ADD COLUMN charged_tier INTEGER CHECK (charged_tier IN (0, 1, 2));
ALTER TABLE jobs ADD COLUMN charged_secs INTEGER CHECK (charged_secs > 0);

DROP INDEX jobs_queue;
DROP INDEX jobs_claims;
-- `suspect` and `state` make them cover the counting of places.
CREATE INDEX jobs_queue ON jobs (tier, tenant, position, suspect, state) WHERE state = 'queued' AND suspect = 0;
CREATE INDEX jobs_suspects ON jobs (tier, position, suspect, state) WHERE state = 'queued' AND suspect = 1;
CREATE INDEX jobs_patience ON jobs (queued_at, id) WHERE state = 'queued' AND suspect = 1;
CREATE INDEX jobs_dead_letters ON jobs (finished_at, id) WHERE state = 'failed';
CREATE INDEX jobs_dead_letters_of ON jobs (tenant, finished_at, id) WHERE state = 'failed';

-- What each tenant takes up, and the caps of its newest submission.
CREATE TABLE tenants (
    tenant      TEXT    NOT NULL PRIMARY KEY,
    running     INTEGER NOT NULL CHECK (running >= 0),
    waiting     INTEGER NOT NULL CHECK (waiting >= 0),   -- queued and delayed
    max_running INTEGER,
    max_waiting INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO tenants (tenant, running, waiting)
    SELECT tenant, sum(state = 'running'), sum(state <> 'running')
    FROM jobs WHERE state IN ('queued','delayed','running') GROUP BY tenant;

-- Where each tenant stands in each tier. Active are those with jobs that can be claimed and below their cap.
CREATE TABLE shares (
    tier   INTEGER NOT NULL CHECK (tier IN (0, 1, 2)),
    tenant TEXT    NOT NULL,
    jobs   INTEGER NOT NULL CHECK (jobs >= 0),           -- queued and not suspect
    active INTEGER NOT NULL CHECK (active = 0 OR jobs > 0),
    tag    INTEGER NOT NULL,                             -- start tag while active, else finish tag
    PRIMARY KEY (tier, tenant)
) STRICT, WITHOUT ROWID;

INSERT INTO shares (tier, tenant, jobs, active, tag)
    SELECT tier, tenant, count(*), 1, 0
    FROM jobs WHERE state = 'queued' AND suspect = 0 GROUP BY tier, tenant;

CREATE INDEX shares_next ON shares (tier, tag, tenant) WHERE active = 1;

INSERT INTO counters (name, value) VALUES ('virtual_low', 0), ('virtual_normal', 0), ('virtual_high', 0);

-- The last claim of each worker that gave anything, so that it can be repeated.
CREATE TABLE claims (
    worker     TEXT    NOT NULL PRIMARY KEY,
    nonce      TEXT    NOT NULL,
    jobs       TEXT    NOT NULL,                         -- JSON: ids, in the order in which they were given
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX claims_expiry ON claims (expires_at);

-- The one worker that is kept for a job that must run alone.
CREATE TABLE reservation (
    one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    worker TEXT    NOT NULL,
    until  INTEGER NOT NULL
) STRICT;
