-- set_journal_mode: in WAL one writes while others read; answers the mode it is in, "memory" for a spool in memory
PRAGMA journal_mode = WAL;

-- set_synchronous: what is committed is on disk, by fsync, when COMMIT returns
PRAGMA synchronous = FULL;

-- set_fullfsync: on macOS fsync alone ends at the drive's cache; elsewhere it changes nothing
PRAGMA fullfsync = ON;

-- set_checkpoint: every 128 pages of the log go into the file, so that a full disk leaves few that have no place there
PRAGMA wal_autocheckpoint = 128;

-- set_temporary_store: vacuum needs no room on disk for its copy
PRAGMA temp_store = MEMORY;

-- checkpoint: moves the log into the file, and empties it
PRAGMA wal_checkpoint (TRUNCATE);

-- vacuum: gives free pages back to the disk
VACUUM;

-- count_pages: those of the file
PRAGMA page_count;

-- count_free_pages: those of the file that hold nothing
PRAGMA freelist_count;

-- set_query_only: refuses every write
PRAGMA query_only = ON;

-- check_pages: "ok", or the first fault of the file
PRAGMA quick_check(1);

-- read_application_id: 0 for a file that is nobody's
PRAGMA application_id;

-- read_version: the version of the schema
PRAGMA user_version;

-- count_tables: 0 for a file that is new
SELECT count(*) FROM sqlite_master;

-- set_application_id: "bill" in ASCII
PRAGMA application_id = 0x62696c6c;

-- set_version: that of the schema below
PRAGMA user_version = 2;

-- create_pending: what is to be delivered, in order. An Idempotency-Key and a request id name one record of one call.
-- recorded_at is RFC 3339 in UTC; body is the JSON of the record as it is sent; so many rows after it, followers, belong
-- to the same call, and are sent with it
CREATE TABLE pending (
    seq INTEGER CONSTRAINT pending_pkey PRIMARY KEY AUTOINCREMENT,
    idempotency_key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    body BLOB NOT NULL,
    followers INTEGER NOT NULL DEFAULT 0
);

-- add_followers: makes a table of version 1 one of version 2
ALTER TABLE pending ADD COLUMN followers INTEGER NOT NULL DEFAULT 0;

-- create_dead: what the service refused, with its problem as JSON (RFC 9457); dead_at is RFC 3339 in UTC
CREATE TABLE dead (
    seq INTEGER CONSTRAINT dead_pkey PRIMARY KEY,
    idempotency_key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    body BLOB NOT NULL,
    dead_at TEXT NOT NULL,
    problem BLOB NOT NULL
);

-- create_delivered: what was delivered and is kept for a while, in the order of delivery; delivered_at is RFC 3339 in UTC
CREATE TABLE delivered (
    id INTEGER CONSTRAINT delivered_pkey PRIMARY KEY AUTOINCREMENT,
    idempotency_key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    body BLOB NOT NULL,
    delivered_at TEXT NOT NULL
);

-- begin: a transaction that may write
BEGIN IMMEDIATE;

-- begin_exclusive: holds the file, until the connection or its process ends
BEGIN EXCLUSIVE;

-- commit: returns when the transaction is on disk
COMMIT;

-- rollback: as if the transaction had never been
ROLLBACK;

-- append: adds a record at the end
INSERT INTO pending (idempotency_key, request_id, recorded_at, body, followers)
VALUES (:idempotency_key, :request_id, :recorded_at, :body, :followers);

-- next_batch: the first records in line after a place in it that share an Idempotency-Key
SELECT seq, idempotency_key, request_id, attempts, body, recorded_at, followers
FROM pending
WHERE seq > :after AND seq < coalesce(
    (
        SELECT seq
        FROM pending
        WHERE
            seq > :after
            AND idempotency_key <> (SELECT idempotency_key FROM pending WHERE seq > :after ORDER BY seq LIMIT 1)
        ORDER BY seq
        LIMIT 1
    ),
    9223372036854775807
)
ORDER BY seq
LIMIT :records;

-- count_attempt: counts an attempt to deliver these records
UPDATE pending SET attempts = attempts + 1 WHERE seq BETWEEN :first AND :last;

-- uncount_attempt: an attempt that was counted and not made
UPDATE pending SET attempts = attempts - 1 WHERE seq BETWEEN :first AND :last;

-- add_dead: copies a record that was refused to the dead letters
INSERT INTO dead (seq, idempotency_key, request_id, recorded_at, attempts, body, dead_at, problem)
SELECT seq, idempotency_key, request_id, recorded_at, attempts, body, :dead_at, :problem FROM pending WHERE seq = :seq;

-- remove: deletes a pending record
DELETE FROM pending WHERE seq = :seq;

-- remove_between: deletes the pending records from the first to the last of a batch
DELETE FROM pending WHERE seq BETWEEN :first AND :last;

-- append_again: copies a pending record to the end of the line, under a seq that was never used
INSERT INTO pending (idempotency_key, request_id, recorded_at, attempts, body)
SELECT idempotency_key, request_id, recorded_at, attempts, body FROM pending WHERE seq = :seq;

-- count_pending: how many wait, how many of them were attempted, their bytes, and when the oldest was recorded
SELECT count(*), coalesce(sum(attempts > 0), 0), coalesce(sum(length(body)), 0), min(recorded_at) FROM pending;

-- any_row: a row if the spool holds anything
SELECT 1 FROM pending
UNION ALL
SELECT 1 FROM dead
UNION ALL
SELECT 1 FROM delivered
LIMIT 1;

-- keep_delivered: copies a record that was delivered to those that are kept
INSERT INTO delivered (idempotency_key, request_id, recorded_at, attempts, body, delivered_at)
SELECT idempotency_key, request_id, recorded_at, attempts, body, :delivered_at
FROM pending
WHERE seq BETWEEN :first AND :last
ORDER BY seq;

-- count_delivered: how many are kept, their bytes, and when the oldest was delivered
SELECT count(*), coalesce(sum(length(body)), 0), min(delivered_at) FROM delivered;

-- oldest_delivered: those that were delivered first
SELECT id, delivered_at, length(body) FROM delivered ORDER BY id LIMIT 1000;

-- forget_delivered: deletes what was delivered up to this one
DELETE FROM delivered WHERE id <= :id;

-- resend: copies what was delivered since then to the end of the line
INSERT INTO pending (idempotency_key, request_id, recorded_at, attempts, body)
SELECT idempotency_key, request_id, recorded_at, attempts, body
FROM delivered
WHERE delivered_at >= :since
ORDER BY id;

-- forget_resent: deletes what was delivered since then
DELETE FROM delivered WHERE delivered_at >= :since;

-- count_dead: how many dead letters there are, and their bytes
SELECT count(*), coalesce(sum(length(body)), 0) FROM dead;

-- all_dead: the dead letters, in the order they were recorded
SELECT request_id, idempotency_key, recorded_at, attempts, body, dead_at, problem FROM dead ORDER BY seq;

-- redrive: copies dead letters to the end of the line, all or those with these request ids (a JSON array)
INSERT INTO pending (idempotency_key, request_id, recorded_at, attempts, body)
SELECT idempotency_key, request_id, recorded_at, attempts, body
FROM dead
WHERE :request_ids IS NULL OR request_id IN (SELECT value FROM json_each(:request_ids))
ORDER BY seq;

-- discard: deletes dead letters, all or those with these request ids (a JSON array)
DELETE FROM dead WHERE :request_ids IS NULL OR request_id IN (SELECT value FROM json_each(:request_ids));
