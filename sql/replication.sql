-- wait_for_standbys: commit something, so that all that was seen before waits for the standbys as synchronous_commit says
SELECT pg_logical_emit_message(true, 'billing', '');

-- server_state: whether a server takes writes, and its timeline: a number that each promotion makes higher (null on a standby)
SELECT pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only')::boolean AS is_read_only,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline;

-- system_identifier: the same on all servers that replicate each other. Some hosted servers let only a superuser ask
SELECT system_identifier FROM pg_control_system();
