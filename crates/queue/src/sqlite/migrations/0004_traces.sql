-- The span that submitted the job, as a W3C traceparent, where that was traced.
ALTER TABLE jobs ADD COLUMN trace TEXT;
