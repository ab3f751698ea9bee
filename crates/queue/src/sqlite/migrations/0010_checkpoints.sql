-- A checkpoint's segments are kept one by one, so that each is written once. A checkpoint of before has them in its body.
CREATE TABLE checkpoint_segments (
    job_id TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    place  INTEGER NOT NULL,                       -- from 0
    body   TEXT    NOT NULL,                       -- JSON
    PRIMARY KEY (job_id, place)
) STRICT, WITHOUT ROWID;

-- Which segments these are: their digest and how many, as `digest|segments`.
ALTER TABLE checkpoints ADD COLUMN mark TEXT NOT NULL DEFAULT '';
