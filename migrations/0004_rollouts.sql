-- Rules that send a share of pulls to v2, and what came of them.

CREATE TABLE rollout (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    -- `active`; `paused`: as if it were not there; `rolled_back`: all that it matches get v1.
    state      text NOT NULL DEFAULT 'active',
    -- Why it is in this state.
    reason     text,
    percent    double precision NOT NULL CHECK (percent BETWEEN 0 AND 100),
    -- Another salt chooses others.
    salt       text NOT NULL,
    -- What always gets the same version: `image` or `workspace`.
    sticky     text NOT NULL,
    -- What it is about; null: any.
    workspaces text[],
    sources    text[],
    -- Of several that match the oldest decides.
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Which version a job's last attempt was to make, and what decided that.
CREATE TABLE version_assignment (
    job_id       uuid PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    clip_version smallint NOT NULL,
    decided_by   text NOT NULL,
    rollout      text,
    at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX version_assignment_of_rollout ON version_assignment (rollout, clip_version, job_id)
    WHERE rollout IS NOT NULL;
