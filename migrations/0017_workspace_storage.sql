-- The bucket that a workspace has, where contexts of its builds may lie. The secret key is sealed as those of jobs
-- are: `id` is the place that it was sealed for.
CREATE TABLE workspace_storage (
    workspace_id text PRIMARY KEY REFERENCES workspace,
    id           uuid NOT NULL,
    bucket       text NOT NULL,
    region       text NOT NULL,
    -- Of AWS itself there is none.
    endpoint     text,
    access_key   text NOT NULL,
    key_id       text NOT NULL,
    nonce        bytea NOT NULL,
    ciphertext   bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workspace_storage_by_key ON workspace_storage (key_id, workspace_id);
