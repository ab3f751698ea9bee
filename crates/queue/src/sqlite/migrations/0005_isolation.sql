-- A job runs alone only after two workers died while they held it, and a death after which a newer checkpoint exists is not
-- counted.

ALTER TABLE jobs RENAME COLUMN suspect TO isolated;
-- Workers that died while they held it. One that this version finds isolated has had enough of them.
ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET deaths = 2 WHERE isolated = 1;
-- How far the checkpoints came, in milliseconds of audio, and under which fence they moved last.
ALTER TABLE jobs ADD COLUMN checkpoint_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN checkpoint_fence INTEGER NOT NULL DEFAULT 0;

-- A claim gives one job.
ALTER TABLE claims RENAME COLUMN jobs TO job;
