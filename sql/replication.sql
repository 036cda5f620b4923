-- wait_for_standbys: commit something, so that all that was seen before waits for the standbys as synchronous_commit says
SELECT pg_logical_emit_message(true, 'billing', '');

-- commit_without_waiting: let the commit of this transaction wait for neither disk nor standbys. For what may be lost
SELECT set_config('synchronous_commit', 'off', true);

-- server_state: whether a server takes writes, and its timeline: a number that each promotion makes higher (null on a standby)
SELECT pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only')::boolean AS is_read_only,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline;

-- system_identifier: the same on all servers that replicate each other. Some hosted servers let only a superuser ask
SELECT system_identifier FROM pg_control_system();

-- takes_no_writes: whether this is a standby, or a primary that was told to be read-only
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean;

-- replica_lag: the seconds since the commit of the latest transaction that this standby has applied; 0 on a primary, null
-- if none was applied yet
SELECT CASE
    WHEN pg_is_in_recovery()
        THEN greatest(0, extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()))::double precision
    ELSE 0
END;

-- durability: what a commit waits for. attached is null if the role may not see it (pg_read_all_stats lets it)
SELECT current_setting('fsync')::boolean AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline,
    CASE
        WHEN names = '' THEN 0
        ELSE coalesce((regexp_match(names, '^\s*(?:any|first)?\s*(\d+)\s*\(', 'i'))[1]::integer, 1)
    END AS required,
    (
        SELECT CASE WHEN count(*) = count(sync_state) THEN count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) END
        FROM pg_stat_replication
    ) AS attached
FROM current_setting('synchronous_standby_names') AS names;
