-- insert_key: add a key
INSERT INTO api_keys (key_id, secret_sha256, name, scopes, customer_id, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- find_keys: the keys with these ids, in any order, including expired and revoked ones
SELECT key_id, secret_sha256, name, scopes, customer_id, expires_at, revoked_at, last_used_at
FROM api_keys
WHERE key_id = ANY($1::text[]);

-- list_keys: all keys in the order they were created, without the hashes of their secrets
SELECT key_id, name, scopes, customer_id, created_at, expires_at, revoked_at, last_used_at
FROM api_keys
ORDER BY created_at, key_id;

-- revoke_key: revoke a key; if it was revoked before, the first time stays
UPDATE api_keys
SET revoked_at = coalesce(revoked_at, $2)
WHERE key_id = $1
RETURNING key_id, name, scopes, customer_id, created_at, expires_at, revoked_at, last_used_at;

-- note_use: note when keys were last used, unless that was noted after $3 or is being noted right now
UPDATE api_keys
SET last_used_at = $2
WHERE key_id IN (
    SELECT key_id FROM api_keys
    WHERE key_id = ANY($1::text[]) AND (last_used_at IS NULL OR last_used_at < $3)
    FOR UPDATE SKIP LOCKED
);
