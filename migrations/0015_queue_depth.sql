-- no-transaction
-- How many jobs of a kind a worker could take now, and since when the first of them is due: for metrics and for whoever
-- starts workers by it. From the first entry on, whatever else is in the queue. By an expression, so that no claim is ever
-- planned by it: it is smaller than `live_job_line`, and with statistics of a few jobs looks as good.
CREATE INDEX CONCURRENTLY IF NOT EXISTS live_job_ready ON live_job (kind, (due_at AT TIME ZONE 'UTC'))
    WHERE head AND worker_id IS NULL AND parked_at IS NULL;
