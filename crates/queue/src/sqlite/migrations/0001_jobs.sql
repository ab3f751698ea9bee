-- Times are milliseconds since the Unix epoch. Tiers: 0 low, 1 normal, 2 high.

CREATE TABLE jobs (
    id               TEXT    NOT NULL PRIMARY KEY,
    tenant           TEXT    NOT NULL,
    dedupe_key       TEXT    NOT NULL,
    options          TEXT    NOT NULL,             -- JSON
    blob             TEXT    NOT NULL,
    created_at       INTEGER NOT NULL,
    ends_at          INTEGER NOT NULL,             -- created_at + max_age
    -- What moves:
    state            TEXT    NOT NULL CHECK (state IN ('queued','delayed','running','completed','failed','cancelled')),
    tier             INTEGER NOT NULL CHECK (tier IN (0, 1, 2)),
    position         INTEGER NOT NULL,             -- place in the queue; lower is sooner
    audio            TEXT    NOT NULL,             -- JSON
    estimated_secs   INTEGER NOT NULL,
    queued_at        INTEGER NOT NULL,             -- since when it waits
    run_at           INTEGER,
    started_at       INTEGER,
    finished_at      INTEGER,
    expires_at       INTEGER,
    attempt          INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,
    suspect          INTEGER NOT NULL DEFAULT 0,   -- was there when a worker vanished: must run alone
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    fence            INTEGER NOT NULL DEFAULT 0,
    nonce            TEXT,                         -- of the last claim, also after the lease has ended
    worker           TEXT,
    lease_ends_at    INTEGER,
    crowded          INTEGER NOT NULL DEFAULT 0,   -- the worker lost another job while it held this one
    past_finish      TEXT,                         -- JSON: the last finish and its answer
    engine           TEXT    NOT NULL,
    progress         REAL    NOT NULL DEFAULT 0,
    stage            TEXT    NOT NULL,
    next_segment     INTEGER NOT NULL DEFAULT 0,
    last_seq         INTEGER NOT NULL DEFAULT 0,   -- of the job's events
    failure          TEXT,                         -- JSON
    result           TEXT,
    CHECK ((state = 'running') = (lease_ends_at IS NOT NULL)),
    CHECK ((state = 'running') = (worker IS NOT NULL)),
    CHECK ((state = 'delayed') = (run_at IS NOT NULL)),
    CHECK ((state = 'completed') = (result IS NOT NULL)),
    CHECK ((state = 'failed') = (failure IS NOT NULL)),
    CHECK ((state IN ('completed','failed','cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state IN ('completed','failed','cancelled')) = (expires_at IS NOT NULL))
) STRICT;

-- At most one live job per dedupe key; one that is being cancelled takes no more submissions.
CREATE UNIQUE INDEX jobs_live_work ON jobs (dedupe_key)
    WHERE state IN ('queued','delayed','running') AND cancel_requested = 0;
CREATE INDEX jobs_finished_work ON jobs (dedupe_key, finished_at) WHERE state = 'completed';
-- `state` makes it cover the counting of places.
CREATE INDEX jobs_queue ON jobs (suspect, tier, position, state) WHERE state = 'queued';
CREATE INDEX jobs_waiting ON jobs (tier, queued_at) WHERE state = 'queued';
CREATE INDEX jobs_due ON jobs (run_at) WHERE state = 'delayed';
CREATE INDEX jobs_leases ON jobs (lease_ends_at) WHERE state = 'running';
CREATE INDEX jobs_workers ON jobs (worker) WHERE state = 'running';
CREATE INDEX jobs_claims ON jobs (nonce) WHERE nonce IS NOT NULL;
CREATE INDEX jobs_ages ON jobs (ends_at) WHERE state IN ('queued','delayed','running');
CREATE INDEX jobs_expiry ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jobs_audio ON jobs (blob) WHERE state IN ('queued','delayed','running','failed');
CREATE INDEX jobs_results ON jobs (result) WHERE result IS NOT NULL;

-- How many jobs are in each state and tier, kept by the triggers below.
CREATE TABLE counts (
    state TEXT    NOT NULL,
    tier  INTEGER NOT NULL,
    jobs  INTEGER NOT NULL DEFAULT 0 CHECK (jobs >= 0),
    PRIMARY KEY (state, tier)
) STRICT, WITHOUT ROWID;

INSERT INTO counts (state, tier)
    SELECT state.column1, tier.column1
    FROM (VALUES ('queued'), ('delayed'), ('running'), ('completed'), ('failed'), ('cancelled')) AS state,
         (VALUES (0), (1), (2)) AS tier;

CREATE TRIGGER jobs_added AFTER INSERT ON jobs BEGIN
    UPDATE counts SET jobs = jobs + 1 WHERE state = NEW.state AND tier = NEW.tier;
END;
CREATE TRIGGER jobs_removed AFTER DELETE ON jobs BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE state = OLD.state AND tier = OLD.tier;
END;
CREATE TRIGGER jobs_moved AFTER UPDATE OF state, tier ON jobs
WHEN OLD.state <> NEW.state OR OLD.tier <> NEW.tier BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE state = OLD.state AND tier = OLD.tier;
    UPDATE counts SET jobs = jobs + 1 WHERE state = NEW.state AND tier = NEW.tier;
END;

CREATE TABLE checkpoints (
    job_id TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    body   TEXT NOT NULL                           -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    job_id TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    body   TEXT    NOT NULL,                       -- JSON
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX events_progress ON events (job_id) WHERE kind = 'progress';

CREATE TABLE submissions (
    id           TEXT    NOT NULL PRIMARY KEY,
    job_id       TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    tenant       TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    deadline     INTEGER,
    metadata     TEXT    NOT NULL,                 -- JSON
    cached       INTEGER NOT NULL,
    deduplicated INTEGER NOT NULL,
    first_seq    INTEGER NOT NULL,                 -- events of the job from here on are its own
    -- When it ended apart from its job:
    ended        TEXT CHECK (ended IN ('cancelled', 'expired')),
    ended_at     INTEGER,
    ended_seq    INTEGER,
    CHECK ((ended IS NULL) = (ended_at IS NULL)),
    CHECK ((ended IS NULL) = (ended_seq IS NULL))
) STRICT;

CREATE INDEX submissions_job ON submissions (job_id);
CREATE INDEX submissions_tenant ON submissions (tenant, id);
CREATE INDEX submissions_deadline ON submissions (deadline) WHERE deadline IS NOT NULL AND ended IS NULL;

CREATE TABLE idempotency (
    tenant        TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    body_digest   TEXT    NOT NULL,
    submission_id TEXT    NOT NULL REFERENCES submissions (id) ON DELETE CASCADE,
    expires_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_submission ON idempotency (submission_id);
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

-- Blobs that no job needs any more, until somebody has deleted them.
CREATE TABLE garbage (
    key TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Numbers that must survive a restart: both ends of the queue and how much service each tier has had.
CREATE TABLE counters (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters (name, value) VALUES
    ('queue_head', 0), ('queue_tail', 0),
    ('service_virtual_time', 0), ('service_low', 0), ('service_normal', 0), ('service_high', 0);
