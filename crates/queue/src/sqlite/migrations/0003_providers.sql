-- What providers share, and what they cost.

-- The model that answered, which may not be the one that was asked for. Jobs of earlier versions know only the latter.
ALTER TABLE jobs ADD COLUMN model TEXT;

-- Values that are changed by compare-and-set.
CREATE TABLE shared_values (
    name       TEXT    NOT NULL PRIMARY KEY,
    version    INTEGER NOT NULL,
    value      TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX shared_values_expiry ON shared_values (expires_at);

-- The last version that any value was given: a value that is made anew does not begin again with an old number.
INSERT INTO counters (name, value) VALUES ('shared_version', 0);

-- Money is kept in millionths, days are counted since the epoch.
CREATE TABLE ledger_reservations (
    job_id    TEXT    NOT NULL,
    fence     INTEGER NOT NULL,
    provider  TEXT    NOT NULL,
    tenant    TEXT    NOT NULL,
    cost      INTEGER NOT NULL,
    lapses_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, fence, provider)
) STRICT, WITHOUT ROWID;

-- The charges of single jobs: jobs are forgotten sooner.
CREATE TABLE ledger_charges (
    job_id    TEXT    NOT NULL,
    fence     INTEGER NOT NULL,
    provider  TEXT    NOT NULL,
    tenant    TEXT    NOT NULL,
    billed_ms INTEGER NOT NULL,
    cost      INTEGER,                             -- no price is known when absent
    day       INTEGER NOT NULL,
    PRIMARY KEY (job_id, fence, provider)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_charges_day ON ledger_charges (day);

CREATE TABLE ledger_days (
    day         INTEGER NOT NULL,
    provider    TEXT    NOT NULL,
    tenant      TEXT    NOT NULL,
    jobs        INTEGER NOT NULL,
    billed_ms   INTEGER NOT NULL,
    unpriced_ms INTEGER NOT NULL,
    cost        INTEGER NOT NULL,
    PRIMARY KEY (day, provider, tenant)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_days_tenant ON ledger_days (day, tenant, cost);
