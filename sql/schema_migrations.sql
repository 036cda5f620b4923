-- lock: lets one migration run at a time; held to the end of the transaction
SELECT pg_advisory_xact_lock(hashtext('billing_service.schema_migrations'));

-- create_table: the record of what was applied; customers' data is not in it
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    applied_at timestamptz NOT NULL,
    breaking boolean NOT NULL DEFAULT false,
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (version)
);

-- add_breaking: the column, where an earlier program made the table
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS breaking boolean NOT NULL DEFAULT false;

-- exists: whether a migration ever ran here
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- current_version: the newest migration applied, 0 where there is none
SELECT coalesce(max(version), 0) FROM schema_migrations;

-- breaks: whether a program that knows the first $1 migrations cannot run on what came after them
SELECT EXISTS (SELECT FROM schema_migrations WHERE version > $1 AND breaking);

-- applied: notes a migration as applied
INSERT INTO schema_migrations (version, name, applied_at, breaking) VALUES ($1, $2, now(), $3);
