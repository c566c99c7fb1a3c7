-- What a workspace sets for itself, who may act in it, and what was done by whom.

ALTER TABLE workspace
    -- The archive version of its pulls that ask for none.
    ADD COLUMN clip_version smallint CHECK (clip_version IN (1, 2)),
    -- What becomes of images that can't be served as v2: `v1` or `none`.
    ADD COLUMN fallback text,
    -- Registries that its jobs may pull from; null: any.
    ADD COLUMN allowed_registries text[],
    -- How many of its jobs may wait; null: as many as there are.
    ADD COLUMN max_queued integer CHECK (max_queued >= 0),
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();

-- Bearer tokens, by the SHA-256 of 256 random bits.
CREATE TABLE api_token (
    id           uuid PRIMARY KEY,
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    name         text NOT NULL,
    role         text NOT NULL,
    -- Of role `workspace`: the one that it is for.
    workspace_id text REFERENCES workspace,
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT api_token_of_workspace CHECK ((role = 'workspace') = (workspace_id IS NOT NULL))
);
CREATE INDEX api_token_by_workspace ON api_token (workspace_id, id);

-- What was changed, and by whom. Nothing is changed or removed here.
CREATE TABLE audit_event (
    id           uuid PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- `admin` is the token of the settings, `local` a client on a machine without any; else a token's id.
    actor        text NOT NULL,
    action       text NOT NULL,
    workspace_id text,
    subject      text NOT NULL,
    detail       jsonb NOT NULL DEFAULT '{}',
    request_id   text
);
CREATE INDEX audit_event_by_workspace ON audit_event (workspace_id, id);
