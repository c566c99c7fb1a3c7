-- Jobs that ask for the same, at the same time, are one.

ALTER TABLE live_job
    -- What a later job must have in common to join this one: its spec, its secrets and its workspace. Null:
    -- none joins. Of secrets it holds a keyed hash.
    ADD COLUMN join_digest bytea CHECK (octet_length(join_digest) = 32);
CREATE UNIQUE INDEX live_job_joinable ON live_job (workspace_id, image_id, join_digest)
    WHERE join_digest IS NOT NULL AND NOT cancel_requested;
