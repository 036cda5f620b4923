-- API keys. They do not belong to a customer: the table is not distributed, and a key may exist before the customer it is
-- bound to. Only the SHA-256 of the secret is stored.
CREATE TABLE api_keys (
    key_id text COLLATE "C" NOT NULL,
    secret_sha256 bytea NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    customer_id text COLLATE "C",
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (key_id),
    CONSTRAINT api_keys_secret_sha256_check CHECK (octet_length(secret_sha256) = 32),
    CONSTRAINT api_keys_scopes_check CHECK (cardinality(scopes) > 0)
);
