-- name_grantee: say which role `grant` is for and whether it may manage keys ('true'); valid until the end of the
-- transaction
SELECT set_config('billing.grantee', $1, true), set_config('billing.with_keys', $2, true);

-- grant: give a role the rights the service needs, and no more. It cannot change a record or create a table, cannot delete
-- anything but old refusals and changes and the console's sessions, and can create and revoke keys only if that was asked
-- for. Rights that it had before are revoked first.
DO $$
DECLARE
    grantee text := current_setting('billing.grantee');
    granted text;
BEGIN
    EXECUTE format(
        'REVOKE ALL ON customers, usage_records, usage_voids, usage_rollups, usage_pieces, usage_piece_parts,'
        ' credit_rollups, dimension_rollups, prepared_dimensions, usage_refusals, changes, statements, issued_statements,'
        ' service_activity, api_keys, console_sessions, schema_migrations FROM %I', grantee
    );
    FOREACH granted IN ARRAY ARRAY[
        'SELECT, INSERT, UPDATE (name, updated_at) ON customers',
        'SELECT, INSERT ON usage_records',
        'SELECT, INSERT ON usage_voids',
        'SELECT, INSERT, UPDATE (records, units, amount, voided) ON usage_rollups',
        'SELECT, INSERT ON usage_pieces',
        'SELECT, INSERT ON usage_piece_parts',
        'SELECT, INSERT, DELETE ON usage_refusals',
        'SELECT, INSERT, DELETE ON changes',
        'SELECT, INSERT, UPDATE (records, units, amount) ON credit_rollups',
        'SELECT, INSERT, UPDATE (records, units, amount, credit_records, credit_units, credit_amount) ON dimension_rollups',
        'SELECT ON prepared_dimensions',
        'SELECT, INSERT ON statements',
        'SELECT, INSERT ON issued_statements',
        'SELECT, INSERT, UPDATE (last_recorded_at, times_active) ON service_activity',
        CASE current_setting('billing.with_keys')
            WHEN 'true' THEN 'SELECT, INSERT, UPDATE (last_used_at, revoked_at) ON api_keys'
            ELSE 'SELECT, UPDATE (last_used_at) ON api_keys'
        END,
        'SELECT, INSERT, DELETE ON console_sessions',
        'SELECT ON schema_migrations'
    ] LOOP
        EXECUTE format('GRANT %s TO %I', granted, grantee);
    END LOOP;
END
$$;
