-- Records one use if it is new and adds it to the sums, first to the one of 15 minutes, as record_usage does. Returns whether
-- it was new. It takes no arrays, because they cost a single record as much as all the rest of its work.
CREATE FUNCTION record_one_usage(
    customer_id text,
    request_id bytea,
    event_id text,
    service text,
    units_consumed numeric,
    price_per_unit numeric,
    occurred_at timestamptz,
    recorded_at timestamptz,
    idempotency_key text
) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO usage_records (
        customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
        idempotency_key
    )
    VALUES (
        customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
        idempotency_key
    )
    ON CONFLICT (customer_id, request_id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO usage_rollups AS rollup (customer_id, bucket_minutes, bucket, service, records, units, amount)
    VALUES
        (
            customer_id, 15, date_bin('15 minutes', occurred_at, timestamptz '2000-01-01T00:00:00Z'), service,
            1, units_consumed, units_consumed * price_per_unit
        ),
        (
            customer_id, 180, date_bin('3 hours', occurred_at, timestamptz '2000-01-01T00:00:00Z'), service,
            1, units_consumed, units_consumed * price_per_unit
        )
    ON CONFLICT (customer_id, bucket_minutes, bucket, service) DO UPDATE SET
        records = rollup.records + excluded.records,
        units = rollup.units + excluded.units,
        amount = rollup.amount + excluded.amount;
    RETURN true;
END
$$;
