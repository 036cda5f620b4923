-- name_grantee: tells `grant` which role it is for; until the end of the transaction
SELECT set_config('billing.grantee', $1, true);

-- grant: lets a role do what the service does, and no more: nothing is deleted, no record changed, no table made, no
-- key made or changed. In the place of what it was granted before
DO $$
DECLARE
    grantee text := current_setting('billing.grantee');
    granted text;
BEGIN
    EXECUTE format(
        'REVOKE ALL ON customers, usage_records, usage_voids, usage_rollups, statements, service_activity, api_keys,'
        ' schema_migrations FROM %I', grantee
    );
    FOREACH granted IN ARRAY ARRAY[
        'SELECT, INSERT, UPDATE (name, updated_at) ON customers',
        'SELECT, INSERT ON usage_records',
        'SELECT, INSERT ON usage_voids',
        'SELECT, INSERT, UPDATE (records, units, amount) ON usage_rollups',
        'SELECT, INSERT ON statements',
        'SELECT, INSERT, UPDATE (last_recorded_at) ON service_activity',
        'SELECT, UPDATE (last_used_at) ON api_keys',
        'SELECT ON schema_migrations'
    ] LOOP
        EXECUTE format('GRANT %s TO %I', granted, grantee);
    END LOOP;
END
$$;
