-- Of the jobs that a workspace has for an image one may run next, and of all jobs of an image one may run. Before, one
-- of all workspaces' jobs might run next: what nobody could claim held up what others could.

DROP INDEX live_job_head;
CREATE UNIQUE INDEX live_job_head ON live_job (workspace_id, image_id) WHERE head;
CREATE UNIQUE INDEX live_job_one_runs ON live_job (image_id) WHERE worker_id IS NOT NULL;
CREATE INDEX live_job_of_workspace_image ON live_job (workspace_id, image_id, priority, due_at, job_id);

-- As `choose_head` of one argument, in one workspace.
CREATE FUNCTION choose_head(whose text, image text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen uuid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(whose || '/' || image, 0));
    LOOP
        -- Each statement sees what was committed before it began: the lock comes first.
        SELECT job_id INTO chosen
            FROM (VALUES (1::smallint), (0::smallint), (-1::smallint)) AS level (rank)
            CROSS JOIN LATERAL (
                SELECT job_id, due_at FROM live_job
                WHERE workspace_id = whose AND image_id = image AND priority = rank
                ORDER BY due_at, job_id LIMIT 1) AS first
            ORDER BY CASE WHEN due_at <= clock_timestamp() THEN -rank ELSE 2 END, due_at, job_id LIMIT 1;
        EXIT WHEN chosen IS NULL;
        -- One that is locked is about to run, or to end and come through here: who waited for it would
        -- be waited for.
        UPDATE live_job SET head = false WHERE job_id = (
            SELECT job_id FROM live_job
            WHERE workspace_id = whose AND image_id = image AND head AND worker_id IS NULL
              AND job_id <> chosen
            FOR UPDATE SKIP LOCKED);
        UPDATE live_job SET head = true
            WHERE job_id = chosen AND NOT head
            AND NOT EXISTS (SELECT FROM live_job
                            WHERE workspace_id = whose AND image_id = image AND head);
        -- The chosen one may have been cancelled meanwhile, by somebody who didn't have to choose.
        EXIT WHEN EXISTS (SELECT FROM live_job
                          WHERE workspace_id = whose AND image_id = image AND head);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION live_job_head_of_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM choose_head(NEW.workspace_id, NEW.image_id);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION live_job_head_after_old() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM choose_head(OLD.workspace_id, OLD.image_id);
    RETURN NULL;
END $$;
DROP FUNCTION choose_head(text);

SELECT choose_head(workspace_id, image_id)
    FROM (SELECT DISTINCT workspace_id, image_id FROM live_job) AS waiting;
