-- Submissions there are, and tenants of which there are any, kept by the triggers below.
INSERT INTO counters (name, value) SELECT 'submissions', count(*) FROM submissions;
INSERT INTO counters (name, value) SELECT 'holders', count(*) FROM remembered;

CREATE TRIGGER submission_counted AFTER INSERT ON submissions BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'submissions';
END;
CREATE TRIGGER submission_uncounted AFTER DELETE ON submissions BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'submissions';
END;
CREATE TRIGGER holder_counted AFTER INSERT ON remembered BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'holders';
END;
CREATE TRIGGER holder_uncounted AFTER DELETE ON remembered BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'holders';
END;
