-- Starts that tenants report are theirs: they are in reports, but no reason to roll anything back for others; and
-- those of one tenant don't keep the others' from being counted.

ALTER TABLE image_start
    -- Reported by whoever runs the fleet, and not by a workspace's own token.
    ADD COLUMN is_vouched boolean NOT NULL DEFAULT false;
CREATE INDEX image_start_uncounted ON image_start (workspace_id, received_at)
    WHERE rollout_id IS NOT NULL AND counted_at IS NULL;
DROP INDEX image_start_new;
