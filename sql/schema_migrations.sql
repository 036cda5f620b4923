-- lock: lets one migration run at a time; held to the end of the transaction
SELECT pg_advisory_xact_lock(hashtext('billing_service.schema_migrations'));

-- create_table: the record of what was applied; customers' data is not in it
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    applied_at timestamptz NOT NULL,
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (version)
);

-- exists: whether a migration ever ran here
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- current_version: the newest migration applied, 0 where there is none
SELECT coalesce(max(version), 0) FROM schema_migrations;

-- applied: notes a migration as applied
INSERT INTO schema_migrations (version, name, applied_at) VALUES ($1, $2, now());
