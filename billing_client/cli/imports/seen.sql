-- keep_no_journal: a file that goes with its process needs no way back
PRAGMA journal_mode = OFF;

-- create_seen: the request ids met so far
CREATE TABLE seen (request_id BLOB CONSTRAINT seen_pkey PRIMARY KEY) WITHOUT ROWID;

-- add_seen: takes note of a request id, if it is a new one
INSERT OR IGNORE INTO seen (request_id) VALUES (?);
