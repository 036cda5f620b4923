-- lock: let only one migration run at a time; released at the end of the transaction
SELECT pg_advisory_xact_lock(hashtext('billing_service.schema_migrations'));

-- give_way: within the transaction, wait for the lock of a table no longer than $1: all who want the table too wait behind
SELECT set_config('lock_timeout', $1::text, true);

-- create_table: create the list of applied migrations
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    applied_at timestamptz NOT NULL,
    breaking boolean NOT NULL DEFAULT false,
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (version)
);

-- add_breaking: add the column if an earlier program created the table
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS breaking boolean NOT NULL DEFAULT false;

-- exists: whether any migration was applied to this database
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- current_version: the version of the newest applied migration, or 0
SELECT coalesce(max(version), 0) FROM schema_migrations;

-- breaks: whether a program that knows only the first $1 migrations cannot run on this schema
SELECT EXISTS (SELECT FROM schema_migrations WHERE version > $1 AND breaking);

-- applied: note that a migration was applied
INSERT INTO schema_migrations (version, name, applied_at, breaking) VALUES ($1, $2, now(), $3);

-- index_state: whether an index is there and can be used; null if it is not there
SELECT (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1));

-- lock_indexes: let only one program build indexes at a time; released with unlock_indexes
SELECT pg_try_advisory_lock(hashtext('billing_service.indexes'));

-- unlock_indexes: let another program build indexes
SELECT pg_advisory_unlock(hashtext('billing_service.indexes'));
