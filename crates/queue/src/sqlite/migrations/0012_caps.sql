-- Caps of tenants that no submission lifts. `tenants` has those in force: of these and the newest submission's the strictest.

CREATE TABLE caps (
    tenant      TEXT    NOT NULL PRIMARY KEY,
    max_running INTEGER CHECK (max_running >= 0),
    max_waiting INTEGER CHECK (max_waiting >= 0),
    CHECK (max_running IS NOT NULL OR max_waiting IS NOT NULL)
) STRICT, WITHOUT ROWID;
