-- What starts of an image touched, as src/trace.rs has it: merged, and bounded.
CREATE TABLE image_trace (
    workspace_id text NOT NULL,
    image_id     text NOT NULL,
    trace        jsonb NOT NULL,
    -- Of the trace: who merges says which one he has read.
    revision     bigint NOT NULL DEFAULT 1,
    starts       integer NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, image_id),
    FOREIGN KEY (workspace_id, image_id) REFERENCES image ON DELETE CASCADE
);
