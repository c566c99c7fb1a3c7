-- Who reads which layer now, so that the others wait for what comes of it instead of reading it too.

CREATE TABLE layer_claim (
    -- The store's key of the layer's index.
    key        text PRIMARY KEY,
    -- One for each claim, so that whoever lost it can't touch that of the next.
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Notifications only wake; whoever misses one polls.
CREATE FUNCTION notify_layer_claim_freed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('layer_claim_freed', OLD.key);
    RETURN NULL;
END $$;
CREATE TRIGGER layer_claim_freed_notify AFTER DELETE ON layer_claim
    FOR EACH ROW EXECUTE FUNCTION notify_layer_claim_freed();
