-- Who is told when a job ends. A row is due in the same transaction that ends the job, so that none is lost
-- when a process dies between the two.

CREATE TABLE webhook (
    id           uuid PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspace,
    job_id       uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    -- Without its query, which may hold a secret.
    shown_url    text NOT NULL,
    -- The address and the secret to sign with, encrypted.
    key_id       text NOT NULL,
    nonce        bytea NOT NULL,
    ciphertext   bytea NOT NULL,
    -- `waiting` for the end of the job, `due`, `delivered` or `given_up`.
    state        text NOT NULL DEFAULT 'waiting',
    attempts     integer NOT NULL DEFAULT 0,
    -- Not before; null while it waits.
    due_at       timestamptz,
    -- Since when it is tried.
    due_since    timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    -- What the last attempt came to.
    last_status  integer,
    last_error   text,
    CONSTRAINT webhook_due_at_a_time CHECK (state <> 'due' OR due_at IS NOT NULL AND due_since IS NOT NULL)
);
CREATE INDEX webhook_of_job ON webhook (job_id);
CREATE INDEX webhook_by_workspace ON webhook (workspace_id, id);
CREATE INDEX webhook_by_state ON webhook (workspace_id, state, id);
CREATE INDEX webhook_due ON webhook (workspace_id, due_at) WHERE state = 'due';
CREATE INDEX webhook_by_key ON webhook (key_id, id);

CREATE FUNCTION webhooks_of_ended_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE webhook SET state = 'due', due_at = clock_timestamp(), due_since = clock_timestamp()
        WHERE job_id = NEW.id AND state = 'waiting';
    RETURN NULL;
END $$;
CREATE TRIGGER job_ended AFTER UPDATE OF finished_at ON job
    FOR EACH ROW WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION webhooks_of_ended_job();

-- The job that it is about may have ended already.
CREATE FUNCTION webhook_of_job_that_may_have_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended timestamptz;
BEGIN
    -- With the lock: one that is about to end at this moment either has ended, or finds the new row.
    SELECT finished_at INTO ended FROM job WHERE id = NEW.job_id FOR SHARE;
    IF ended IS NOT NULL THEN
        UPDATE webhook SET state = 'due', due_at = clock_timestamp(), due_since = clock_timestamp()
            WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER webhook_added AFTER INSERT ON webhook
    FOR EACH ROW EXECUTE FUNCTION webhook_of_job_that_may_have_ended();
