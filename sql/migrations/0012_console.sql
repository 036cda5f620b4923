-- The console: sessions of browsers that signed in with an API key, and what its pages need to be fast. Sessions belong to
-- no customer: like the keys, they are not distributed. Only the SHA-256 of a session's token is stored.

CREATE TABLE console_sessions (
    token_sha256 bytea NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT console_sessions_pkey PRIMARY KEY (token_sha256),
    CONSTRAINT console_sessions_key_fkey FOREIGN KEY (key_id) REFERENCES api_keys (key_id),
    CONSTRAINT console_sessions_token_sha256_check CHECK (octet_length(token_sha256) = 32)
);

CREATE INDEX console_sessions_expires_at_idx ON console_sessions (expires_at);

-- The sums of all customers in a month. Buckets lie in the table about in the order of time, so an index of block ranges
-- finds those of a month. It is small, and costs a write next to nothing.
CREATE INDEX usage_rollups_bucket_idx ON usage_rollups USING brin (bucket) WITH (autosummarize = on);

CREATE INDEX usage_voids_voided_at_idx ON usage_voids (voided_at);
