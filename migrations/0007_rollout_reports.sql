-- What came of rollouts: which jobs they decided, how the images started, and what the guard makes of it.

ALTER TABLE rollout
    -- What is kept about it refers to this: one of the same name that is made later is another.
    ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    -- Kinds of jobs that it is about, also those of later versions; null: any.
    ADD COLUMN kinds text[],
    -- The chance of a false alarm that its guard may take; 0: nobody guards it.
    ADD COLUMN guard double precision NOT NULL DEFAULT 0.01 CHECK (guard BETWEEN 0 AND 0.5);

-- The version that an active rollout chose for a job's first attempt. Later attempts may make another, and
-- what came of the job counts for this one all the same.
CREATE TABLE rollout_trial (
    job_id     uuid PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    rollout_id uuid NOT NULL,
    arm        smallint NOT NULL,
    counted_at timestamptz
);
CREATE INDEX rollout_trial_new ON rollout_trial (job_id) WHERE counted_at IS NULL;

-- Starts of images as workers report them, for as long as a report may be sent again.
CREATE TABLE image_start (
    workspace_id  text NOT NULL REFERENCES workspace,
    -- Of the client's choice: who sends it twice reports it once.
    id            uuid NOT NULL,
    image_id      text NOT NULL,
    -- Of the trial by which the archive came about, if there was one.
    rollout_id    uuid,
    arm           smallint,
    clip_version  smallint NOT NULL,
    is_warm       boolean NOT NULL,
    has_failed    boolean NOT NULL,
    start_seconds double precision,
    first_exec_ms double precision,
    wire_bytes    bigint,
    range_gets    bigint,
    cache_hits    bigint,
    host          text,
    at            timestamptz NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now(),
    counted_at    timestamptz,
    PRIMARY KEY (workspace_id, id)
);
CREATE INDEX image_start_new ON image_start (received_at)
    WHERE rollout_id IS NOT NULL AND counted_at IS NULL;
CREATE INDEX image_start_age ON image_start (received_at);

-- The bucket of a value: bucket n holds what is more than 1.02^(n-1) and not more than 1.02^n, so that its
-- middle is within 1 % of each of them. The first one holds zeros.
CREATE FUNCTION rollout_bucket(value double precision) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN value <= 1e-9 THEN -32768
                ELSE ceil(ln(value) / ln(1.02::double precision)) END;

-- The part of all there is that something belongs to: what a rollout gives the same version is in one part.
CREATE FUNCTION rollout_part(sticky text, workspace text, image text) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN abs(hashtextextended(
        CASE sticky WHEN 'workspace' THEN workspace ELSE workspace || '/' || image END, 0) % 16);

-- How often a measure was in each bucket on a day (UTC), and how often something happened, which is a measure
-- of one bucket. What a report reads: it grows with days, not with what is counted.
CREATE TABLE rollout_sketch (
    rollout_id uuid NOT NULL,
    day        date NOT NULL,
    arm        smallint NOT NULL,
    part       smallint NOT NULL,
    measure    text COLLATE "C" NOT NULL,
    -- As many of the one as of the other.
    buckets    smallint[] NOT NULL,
    counts     bigint[] NOT NULL,
    PRIMARY KEY (rollout_id, day, arm, part, measure)
) WITH (fillfactor = 50); -- rows are written in place

-- Two of them as one.
CREATE FUNCTION rollout_merge(
    one_buckets smallint[], one_counts bigint[], other_buckets smallint[], other_counts bigint[],
    OUT buckets smallint[], OUT counts bigint[])
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg(bucket), array_agg(count)
    FROM (SELECT bucket, sum(count)::bigint AS count
          FROM (SELECT unnest(one_buckets) AS bucket, unnest(one_counts) AS count
                UNION ALL
                SELECT unnest(other_buckets), unnest(other_counts)) AS both_of_them
          GROUP BY bucket) AS merged;
END;

-- What first came of each image: the guard takes no image twice, however often its job is sent.
CREATE TABLE rollout_unit (
    rollout_id   uuid NOT NULL,
    -- `job` or `start`.
    stage        text NOT NULL,
    workspace_id text NOT NULL,
    image_id     text NOT NULL,
    arm          smallint NOT NULL,
    has_failed   boolean NOT NULL,
    seq          bigint GENERATED ALWAYS AS IDENTITY,
    is_judged    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (rollout_id, stage, workspace_id, image_id)
);
CREATE INDEX rollout_unit_new ON rollout_unit (rollout_id, stage, seq) WHERE NOT is_judged;

-- How far the guard has come.
CREATE TABLE rollout_guard (
    rollout_id   uuid NOT NULL,
    stage        text NOT NULL,
    -- Counts the times it was written, so that of two who judge the same one wins.
    version      bigint NOT NULL,
    -- Images of v1 and v2, and those of them that failed: all of them, and those of the block that is open.
    totals       bigint[] NOT NULL,
    block        bigint[] NOT NULL,
    -- Logarithms of the evidence against "v2 fails no more often than v1", for each effect looked for.
    evidence     double precision[] NOT NULL,
    PRIMARY KEY (rollout_id, stage)
);

-- Rollouts that were removed, until what was kept about them is removed too.
CREATE TABLE rollout_gone (
    rollout_id uuid PRIMARY KEY
);
