-- Webhooks are bounded: those that wait for one job, and for how long those that are settled are kept.

-- With the state: what waits for a job or under a key is found beside any number that is settled.
DROP INDEX webhook_of_job;
CREATE INDEX webhook_of_job ON webhook (job_id, state);
DROP INDEX webhook_by_key;
CREATE INDEX webhook_by_key ON webhook (key_id, state, id);
-- Those that were settled long ago, and those that nobody has tried for long.
CREATE INDEX webhook_by_time ON webhook (state, due_at);

-- A path may be the secret: https://hooks.example/services/T0/B0/XXXX.
UPDATE webhook SET shown_url = regexp_replace(shown_url, '^([^/]*//[^/]*).*$', '\1/...');

CREATE OR REPLACE FUNCTION webhook_of_job_that_may_have_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended timestamptz;
BEGIN
    -- With the lock: one that is about to end at this moment either has ended, or finds the new row. Those who
    -- add webhooks to the same job come one after the other, and count right.
    SELECT finished_at INTO ended FROM job WHERE id = NEW.job_id FOR NO KEY UPDATE;
    -- All of them are due in the statement that ends the job, which must not take long.
    IF EXISTS (SELECT FROM webhook
               WHERE job_id = NEW.job_id AND state IN ('waiting', 'due') OFFSET 20) THEN
        RAISE EXCEPTION 'webhook: 20 wait for job % already: expected no more', NEW.job_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'webhook_bounded', TABLE = 'webhook';
    END IF;
    IF ended IS NOT NULL THEN
        UPDATE webhook SET state = 'due', due_at = clock_timestamp(), due_since = clock_timestamp()
            WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
