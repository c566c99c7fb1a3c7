-- Whose jobs run next: workspaces take turns, none runs more than it may, and jobs whose registry does
-- not answer wait without a worker.

ALTER TABLE workspace
    -- How many of its jobs may run at a time; null: as many as there are workers.
    ADD COLUMN max_running integer CHECK (max_running >= 0);

-- Which workspaces were served last: of those that have equally many jobs running the one whose last claim
-- is the longest ago comes first. In a table of its own, since each claim writes it.
CREATE TABLE workspace_turn (
    workspace_id text PRIMARY KEY REFERENCES workspace ON DELETE CASCADE,
    -- Number of the last claim.
    last_fence   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO workspace_turn (workspace_id) SELECT id FROM workspace;

CREATE FUNCTION workspace_gets_a_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO workspace_turn (workspace_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER workspace_added AFTER INSERT ON workspace
    FOR EACH ROW EXECUTE FUNCTION workspace_gets_a_turn();

ALTER TABLE live_job
    -- Whose job it is. Replicas of the version before don't say: it is looked up for them.
    ADD COLUMN workspace_id text,
    -- The registry that it needs, if it needs one.
    ADD COLUMN host text,
    -- Since when it waits for its registry, without a worker.
    ADD COLUMN parked_at timestamptz;
UPDATE live_job SET workspace_id = job.workspace_id FROM job WHERE job.id = live_job.job_id;

CREATE FUNCTION live_job_whose() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT workspace_id INTO NEW.workspace_id FROM job WHERE id = NEW.job_id;
    RETURN NEW;
END $$;
CREATE TRIGGER live_job_adding BEFORE INSERT ON live_job
    FOR EACH ROW WHEN (NEW.workspace_id IS NULL) EXECUTE FUNCTION live_job_whose();

-- `live_job_due` stays for replicas of the version before.
CREATE INDEX live_job_line ON live_job (workspace_id, kind, suspect, priority, key_id, due_at)
    WHERE head AND worker_id IS NULL AND parked_at IS NULL;
CREATE INDEX live_job_suspect ON live_job (kind) WHERE suspect AND head AND worker_id IS NULL;
CREATE INDEX live_job_of_host ON live_job (host, parked_at) WHERE worker_id IS NULL AND host IS NOT NULL;

-- Registries that did not answer lately. While there is a time in `rests_until` their jobs are parked; then
-- one job at a time tries whether they are back.
CREATE TABLE resting_host (
    host        text PRIMARY KEY,
    -- Jobs in a row that found it away.
    failures    integer NOT NULL,
    last_job    uuid NOT NULL,
    failed_at   timestamptz NOT NULL DEFAULT now(),
    rests_until timestamptz
);
