-- The queue: jobs, what is said about them, their credentials, and the images they made.

CREATE TABLE job (
    id               uuid PRIMARY KEY,
    image_id         text NOT NULL,
    spec             jsonb NOT NULL,
    state            text NOT NULL DEFAULT 'queued'
                     CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempt          integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts     integer NOT NULL CHECK (max_attempts >= 1),
    idempotency_key  text UNIQUE,
    cancel_requested boolean NOT NULL DEFAULT false,
    not_before       timestamptz NOT NULL DEFAULT now(),
    -- Counts claims and only grows; `attempt` can't be the fence, since a released one is not counted.
    fence            bigint NOT NULL DEFAULT 0,
    worker_id        text,
    lease_expires_at timestamptz,
    -- Seq of the last event.
    last_seq         bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    result           jsonb,
    error            jsonb,
    CONSTRAINT job_lease_while_running
        CHECK (CASE WHEN state = 'running'
                    THEN worker_id IS NOT NULL AND lease_expires_at IS NOT NULL
                    ELSE worker_id IS NULL AND lease_expires_at IS NULL END),
    CONSTRAINT job_finished_when_final
        CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT job_result_when_succeeded CHECK ((state = 'succeeded') = (result IS NOT NULL)),
    CONSTRAINT job_error_when_failed CHECK (state <> 'failed' OR error IS NOT NULL)
);

-- Two jobs about one image would race for its archive. The reaper finds running jobs here too: an
-- index on `lease_expires_at` would be written with every heartbeat.
CREATE UNIQUE INDEX job_one_running_per_image ON job (image_id) WHERE state = 'running';
CREATE INDEX job_queued ON job (id) WHERE state = 'queued';
CREATE INDEX job_by_image ON job (image_id, id);

CREATE TABLE job_event (
    job_id  uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    seq     bigint NOT NULL CHECK (seq >= 1),
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt integer NOT NULL,
    -- {"event": ..., "data": ...}
    body    jsonb NOT NULL,
    kind    text NOT NULL GENERATED ALWAYS AS (body ->> 'event') STORED,
    PRIMARY KEY (job_id, seq)
);

CREATE UNIQUE INDEX job_event_one_final ON job_event (job_id)
    WHERE kind IN ('succeeded', 'failed', 'cancelled');

-- Encrypted credentials; the row goes when its job becomes final.
CREATE TABLE job_secret (
    job_id     uuid PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    ciphertext bytea NOT NULL
);

-- Images whose archive is in the store. They outlive the jobs that made them.
CREATE TABLE image (
    image_id   text PRIMARY KEY,
    job_id     uuid NOT NULL,
    result     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Notifications only wake; whoever misses one polls.
CREATE FUNCTION notify_job_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('job_event', NEW.job_id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER job_event_notify AFTER INSERT ON job_event
    FOR EACH ROW EXECUTE FUNCTION notify_job_event();

-- A job that ends makes room for the next one of its image.
CREATE FUNCTION notify_job_claimable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('job_claimable', '');
    RETURN NULL;
END $$;
CREATE TRIGGER job_inserted_notify AFTER INSERT ON job
    FOR EACH ROW EXECUTE FUNCTION notify_job_claimable();
CREATE TRIGGER job_left_running_notify AFTER UPDATE OF state ON job
    FOR EACH ROW WHEN (OLD.state = 'running' AND NEW.state <> 'running')
    EXECUTE FUNCTION notify_job_claimable();
