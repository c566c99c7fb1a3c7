-- Who reads which layer now, so that the others wait for what comes of it instead of reading it too.

CREATE TABLE layer_claim (
    -- The store's key of the layer's index.
    key        text PRIMARY KEY,
    -- One for each claim, so that whoever lost it can't touch that of the next.
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX layer_claim_expiry ON layer_claim (expires_at);
