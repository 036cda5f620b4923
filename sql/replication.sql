-- wait_for_standbys: commit something, so that all that was seen before waits for the standbys as synchronous_commit says
SELECT pg_logical_emit_message(true, 'billing', '');
