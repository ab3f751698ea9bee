-- Caps of tenants, whichever key they come with, and a number that rises with every change to what is in force. Repeatable: a
-- server and commands may open the database at the same moment.

CREATE TABLE IF NOT EXISTS tenants (
    tenant      TEXT    NOT NULL PRIMARY KEY,
    max_running INTEGER,
    max_queued  INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS revision (number INTEGER NOT NULL) STRICT;
INSERT INTO revision (number) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM revision);

CREATE TRIGGER IF NOT EXISTS key_made AFTER INSERT ON keys BEGIN
    UPDATE revision SET number = number + 1;
END;

CREATE TRIGGER IF NOT EXISTS key_changed AFTER UPDATE ON keys BEGIN
    UPDATE revision SET number = number + 1;
END;

CREATE TRIGGER IF NOT EXISTS tenant_made AFTER INSERT ON tenants BEGIN
    UPDATE revision SET number = number + 1;
END;

CREATE TRIGGER IF NOT EXISTS tenant_changed AFTER UPDATE ON tenants BEGIN
    UPDATE revision SET number = number + 1;
END;
