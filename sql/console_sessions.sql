-- insert_session: add the session of a browser that signed in
INSERT INTO console_sessions (token_sha256, key_id, created_at, expires_at) VALUES ($1, $2, $3, $4);

-- find_session: the API key that a session, unless it has expired, was opened with, also if it is expired or revoked
SELECT key_id, name, scopes, customer_id, api_keys.expires_at, revoked_at
FROM console_sessions
JOIN api_keys USING (key_id)
WHERE token_sha256 = $1 AND console_sessions.expires_at > $2;

-- delete_session: end a session
DELETE FROM console_sessions WHERE token_sha256 = $1;

-- delete_expired_sessions: forget the sessions that have expired
DELETE FROM console_sessions WHERE expires_at <= $1;
