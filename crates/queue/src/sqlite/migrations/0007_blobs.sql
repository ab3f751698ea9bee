-- Since when no job needs a blob that is to be deleted; 0 where its client deleted it, and for those of before. Once it was
-- taken: that, and how long it is held. And how often it was taken.
ALTER TABLE garbage ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE garbage ADD COLUMN takes INTEGER NOT NULL DEFAULT 0;

CREATE INDEX garbage_since ON garbage (since);

-- Whose blobs: the one row has the id that is part of their names, the mark of which the blob store's marker holds a copy, and
-- the time until which nothing is swept.
CREATE TABLE store (
    one         INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id          TEXT    NOT NULL,
    mark        INTEGER NOT NULL DEFAULT 0,
    quiet_until INTEGER NOT NULL DEFAULT 0
) STRICT;
