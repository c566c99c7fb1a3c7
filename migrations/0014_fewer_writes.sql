-- Each index costs each write of `live_job`: a job that is alone with its image is born as the one that runs next, and what
-- only replicas of versions that nobody has any more read is gone.

DROP INDEX live_job_due;
-- One for both: whoever asks for an image's jobs in all workspaces, and in one.
DROP INDEX live_job_of_image;
DROP INDEX live_job_of_workspace_image;
CREATE INDEX live_job_of_image ON live_job (image_id, workspace_id, priority, due_at, job_id);

CREATE FUNCTION live_job_alone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The lock of `choose_head`: whoever ends the last job of the image, or adds another, comes before or after.
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.workspace_id || '/' || NEW.image_id, 0));
    NEW.head := NOT EXISTS (SELECT FROM live_job
                            WHERE workspace_id = NEW.workspace_id AND image_id = NEW.image_id);
    RETURN NEW;
END $$;
-- After `live_job_adding`, which looks the workspace up where a replica doesn't say it.
CREATE TRIGGER live_job_adding_alone BEFORE INSERT ON live_job
    FOR EACH ROW EXECUTE FUNCTION live_job_alone();

DROP TRIGGER live_job_added ON live_job;
CREATE TRIGGER live_job_added AFTER INSERT ON live_job
    FOR EACH ROW WHEN (NOT NEW.head) EXECUTE FUNCTION live_job_head_of_new();

-- Ends jobs that no worker has, in whatever state and for whatever reason: `failure` is the error if there is one, and
-- `final` the event. Gives those that were ended.
CREATE FUNCTION end_waiting(jobs uuid[], ended_as text, why text, failure jsonb, final jsonb)
    RETURNS SETOF uuid LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM live_job WHERE job_id = ANY(jobs) AND worker_id IS NULL RETURNING job_id),
    ended AS (
        UPDATE job
        SET state = ended_as, reason = why, error = coalesce(failure, error),
            finished_at = clock_timestamp(), last_seq = last_seq + 1
        WHERE id = ANY(ARRAY(SELECT job_id FROM gone))
        RETURNING id, attempt, last_seq),
    secret AS (
        DELETE FROM job_secret WHERE job_id = ANY(ARRAY(SELECT job_id FROM gone))),
    event AS (
        INSERT INTO job_event (job_id, seq, attempt, body)
        SELECT id, last_seq, attempt, final FROM ended)
    SELECT id FROM ended
$$;
