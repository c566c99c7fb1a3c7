-- The queue: jobs, what is said about them, their secrets, and the images they made.

-- Tenants. Whoever names none works in `default`.
CREATE TABLE workspace (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO workspace (id) VALUES ('default');

-- What was asked for and what came of it. A row is written when a job is accepted, at each claim, with
-- each event and when it ends; whatever is looked for or changes more often is in `live_job`.
CREATE TABLE job (
    id              uuid PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspace,
    -- Kinds, states and shapes of later versions may stand here: they are shown, and not run.
    kind            text NOT NULL,
    spec_version    integer NOT NULL,
    spec            jsonb NOT NULL,
    -- SHA-256 of the normalised spec: jobs that ask for the same have the same.
    spec_digest     bytea NOT NULL CHECK (octet_length(spec_digest) = 32),
    image_id        text NOT NULL,
    priority        smallint NOT NULL CHECK (priority BETWEEN -1 AND 1),
    state           text NOT NULL DEFAULT 'queued',
    -- Why it is in this state, as a code.
    reason          text,
    -- What its attempt is at.
    phase           text,
    attempt         integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts    integer NOT NULL CHECK (max_attempts >= 1),
    -- Attempts that ended because their worker fell silent; not counted in `attempt`.
    losses          integer NOT NULL DEFAULT 0 CHECK (losses >= 0),
    -- What the source's tag meant when it was first resolved: every attempt is about that image.
    resolved_digest text,
    request_id      text,
    trace_context   text,
    -- Seq of the last event.
    last_seq        bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    -- The only copy: events and images refer to it.
    result          jsonb,
    -- An image refers to its result, so that it outlives its time.
    is_kept         boolean NOT NULL DEFAULT false,
    error           jsonb,
    CONSTRAINT job_result_when_succeeded CHECK ((state = 'succeeded') = (result IS NOT NULL)),
    CONSTRAINT job_error_when_failed CHECK (state <> 'failed' OR error IS NOT NULL)
);

CREATE INDEX job_of_workspace ON job (workspace_id, id);
CREATE INDEX job_by_state ON job (workspace_id, state, id);
CREATE INDEX job_by_image ON job (workspace_id, image_id, id);
CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL AND NOT is_kept;

-- The jobs that have not ended: small rows, and no more of them than there is work. Claims, leases and
-- heartbeats touch nothing else.
CREATE TABLE live_job (
    job_id           uuid PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    kind             text NOT NULL,
    spec_version     integer NOT NULL,
    image_id         text NOT NULL,
    priority         smallint NOT NULL,
    -- Not before; jobs of one priority are taken in this order.
    due_at           timestamptz NOT NULL DEFAULT now(),
    -- Ends unrun if no worker took it by then; once one has, it is NULL.
    expires_at       timestamptz,
    -- The key that its secrets are sealed with; empty if it brought none.
    key_id           text NOT NULL DEFAULT '',
    -- Its worker fell silent: it runs alone, lest it take others along again.
    suspect          boolean NOT NULL DEFAULT false,
    -- Of all jobs of an image one may run, since they would race for its archive.
    head             boolean NOT NULL DEFAULT false,
    -- Number of the claim, later ones are greater.
    fence            bigint NOT NULL DEFAULT 0,
    worker_id        text,
    lease_expires_at timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    -- Number of the attempt's last event, so that one that is sent twice is there once.
    last_event       bigint NOT NULL DEFAULT 0,
    CONSTRAINT live_job_lease CHECK ((worker_id IS NULL) = (lease_expires_at IS NULL)),
    CONSTRAINT live_job_runs_as_head CHECK (worker_id IS NULL OR head)
) WITH (fillfactor = 60); -- heartbeats write rows in place

CREATE SEQUENCE job_fence;

CREATE UNIQUE INDEX live_job_head ON live_job (image_id) WHERE head;
-- By key too: whoever hasn't that of many jobs must not walk through all of them at each claim.
CREATE INDEX live_job_due ON live_job (kind, suspect, priority, key_id, due_at)
    WHERE head AND worker_id IS NULL;
CREATE INDEX live_job_key ON live_job (key_id) WHERE key_id <> '' AND worker_id IS NULL;
CREATE INDEX live_job_of_image ON live_job (image_id, priority, due_at, job_id);
-- None on `lease_expires_at`, which each heartbeat changes: those that run are few.
CREATE INDEX live_job_running ON live_job (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX live_job_expiry ON live_job (expires_at) WHERE worker_id IS NULL AND expires_at IS NOT NULL;

-- Chooses which job of an image may run next: of those that are due the one of the highest priority, else
-- the one that is due first. Whoever adds a job, ends the head or gives it back comes through here, one
-- after the other, so that none is forgotten.
CREATE FUNCTION choose_head(image text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(image, 0));
    LOOP
        -- Each statement sees what was committed before it began: the lock comes first.
        SELECT job_id INTO chosen
            FROM (VALUES (1::smallint), (0::smallint), (-1::smallint)) AS level (rank)
            CROSS JOIN LATERAL (
                SELECT job_id, due_at FROM live_job WHERE image_id = image AND priority = rank
                ORDER BY due_at, job_id LIMIT 1) AS first
            ORDER BY CASE WHEN due_at <= clock_timestamp() THEN -rank ELSE 2 END, due_at, job_id LIMIT 1;
        EXIT WHEN chosen IS NULL;
        -- One that is locked is about to run, or to end and come through here: who waited for it would
        -- be waited for.
        UPDATE live_job SET head = false WHERE job_id = (
            SELECT job_id FROM live_job
            WHERE image_id = image AND head AND worker_id IS NULL AND job_id <> chosen
            FOR UPDATE SKIP LOCKED);
        UPDATE live_job SET head = true
            WHERE job_id = chosen AND NOT head
            AND NOT EXISTS (SELECT FROM live_job WHERE image_id = image AND head);
        -- The chosen one may have been cancelled meanwhile, by somebody who didn't have to choose.
        EXIT WHEN EXISTS (SELECT FROM live_job WHERE image_id = image AND head);
    END LOOP;
END $$;

CREATE FUNCTION live_job_head_of_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM choose_head(NEW.image_id);
    RETURN NULL;
END $$;
CREATE FUNCTION live_job_head_after_old() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM choose_head(OLD.image_id);
    RETURN NULL;
END $$;
CREATE TRIGGER live_job_added AFTER INSERT ON live_job
    FOR EACH ROW EXECUTE FUNCTION live_job_head_of_new();
CREATE TRIGGER live_job_ended AFTER DELETE ON live_job
    FOR EACH ROW WHEN (OLD.head) EXECUTE FUNCTION live_job_head_after_old();
CREATE TRIGGER live_job_given_back AFTER UPDATE OF worker_id ON live_job
    FOR EACH ROW WHEN (OLD.worker_id IS NOT NULL AND NEW.worker_id IS NULL)
    EXECUTE FUNCTION live_job_head_of_new();

CREATE TABLE job_event (
    job_id  uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    seq     bigint NOT NULL CHECK (seq >= 1),
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt integer NOT NULL,
    -- {"event": ..., "data": ...}; that of a success has no data, the result is in `job`.
    body    jsonb NOT NULL,
    kind    text NOT NULL GENERATED ALWAYS AS (body ->> 'event') STORED,
    PRIMARY KEY (job_id, seq)
);

CREATE UNIQUE INDEX job_event_one_final ON job_event (job_id)
    WHERE kind IN ('succeeded', 'failed', 'cancelled', 'expired');

-- What a job writes while it works, apart from what happens to it: pieces of up to 64 KiB, read by their
-- offset in bytes.
CREATE TABLE job_log (
    job_id       uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    start_offset bigint NOT NULL CHECK (start_offset >= 0),
    attempt      integer NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    bytes        bytea NOT NULL CHECK (octet_length(bytes) BETWEEN 1 AND 65536),
    PRIMARY KEY (job_id, start_offset)
);

-- Encrypted secrets by their names; they go when their job ends.
CREATE TABLE job_secret (
    job_id     uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    name       text NOT NULL,
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    ciphertext bytea NOT NULL,
    PRIMARY KEY (job_id, name)
);

-- One request that is sent twice makes one job.
CREATE TABLE idempotency_key (
    workspace_id   text NOT NULL REFERENCES workspace,
    key            text NOT NULL,
    request_digest bytea NOT NULL CHECK (octet_length(request_digest) = 32),
    job_id         uuid NOT NULL REFERENCES job ON DELETE CASCADE,
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, key)
);
CREATE INDEX idempotency_key_job ON idempotency_key (job_id);
CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at);

-- Whose archive is in the store under an image id: there is one name for all workspaces, and the first
-- that publishes under it has it.
CREATE TABLE archive_owner (
    image_id     text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspace,
    -- When its workspace last was about to publish.
    since        timestamptz NOT NULL DEFAULT now()
);

-- The images of a workspace whose archives are in the store. Their jobs are kept as long as they.
CREATE TABLE image (
    workspace_id text NOT NULL REFERENCES workspace,
    image_id     text NOT NULL,
    job_id       uuid NOT NULL REFERENCES job,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, image_id)
);
CREATE INDEX image_job ON image (job_id);
