-- How often a token may ask.

ALTER TABLE api_token
    -- Null: as often as the service's settings say.
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0);
