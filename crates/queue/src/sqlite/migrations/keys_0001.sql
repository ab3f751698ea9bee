-- API keys, a database of its own: `verbatim keys` writes it while a server has the job store. Two processes may bring
-- a new file up to date at the same moment, so a migration must bear being run twice.
CREATE TABLE IF NOT EXISTS keys (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    -- The key as JSON; of the secret half only its SHA-256.
    record      TEXT NOT NULL,
    revoked_at  INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS keys_by_tenant ON keys (tenant, created_at, id);
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_at, id);
