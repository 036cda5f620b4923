-- Dimensions of usage: pairs of text such as {"model": "large"}; null without any. Older programs keep calling the older functions.

ALTER TABLE usage_records ADD COLUMN dimensions jsonb;

-- At most 16 pairs of 64 and 200 characters, of 4 bytes at most.
ALTER TABLE usage_records ADD CONSTRAINT usage_records_dimensions_check CHECK (
    jsonb_typeof(dimensions) = 'object' AND dimensions <> '{}' AND pg_column_size(dimensions) <= 18000
) NOT VALID;

-- As before, with dimensions. all_dimensions is null if no record has any.
CREATE FUNCTION record_usage(
    all_new boolean,
    customer_ids text[],
    request_ids bytea[],
    event_ids text[],
    services text[],
    units text[],
    prices text[],
    occurred timestamptz[],
    recorded timestamptz[],
    idempotency_keys text[],
    recorded_by bytea[],
    all_dimensions jsonb[]
) RETURNS bytea[] LANGUAGE plpgsql AS $$
BEGIN
    IF all_new THEN
        BEGIN
            INSERT INTO usage_records (
                customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
                idempotency_key, recorded_by, dimensions
            )
            SELECT unnest(customer_ids), unnest(request_ids), unnest(event_ids), unnest(services),
                unnest(units::numeric[]), unnest(prices::numeric[]), unnest(occurred), unnest(recorded),
                unnest(idempotency_keys), unnest(record_usage.recorded_by), unnest(all_dimensions);
        EXCEPTION WHEN unique_violation THEN
            all_new := false;
        END;
    END IF;
    IF NOT all_new THEN
        WITH fresh AS (
            INSERT INTO usage_records (
                customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
                idempotency_key, recorded_by, dimensions
            )
            SELECT unnest(customer_ids), unnest(request_ids), unnest(event_ids), unnest(services),
                unnest(units::numeric[]), unnest(prices::numeric[]), unnest(occurred), unnest(recorded),
                unnest(idempotency_keys), unnest(record_usage.recorded_by), unnest(all_dimensions)
            ON CONFLICT (customer_id, request_id) DO NOTHING
            RETURNING customer_id, request_id, service, units_consumed, price_per_unit, occurred_at
        )
        SELECT array_agg(customer_id), array_agg(request_id), array_agg(service), array_agg(units_consumed::text),
            array_agg(price_per_unit::text), array_agg(occurred_at)
        INTO customer_ids, request_ids, services, units, prices, occurred
        FROM fresh;
        IF request_ids IS NULL THEN
            PERFORM pg_logical_emit_message(true, 'billing', '');
            RETURN ARRAY[]::bytea[];
        END IF;
    END IF;
    INSERT INTO usage_rollups AS rollup (customer_id, bucket_minutes, bucket, service, records, units, amount)
    SELECT customer_id, bucket_minutes, date_bin(length, occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket, service,
        count(*), sum(units_consumed), sum(units_consumed * price_per_unit)
    FROM (
        SELECT unnest(customer_ids) AS customer_id, unnest(services) AS service, unnest(units::numeric[]) AS units_consumed,
            unnest(prices::numeric[]) AS price_per_unit, unnest(occurred) AS occurred_at
    ) AS fresh
        CROSS JOIN (
            VALUES (15::smallint, interval '15 minutes'), (180::smallint, interval '3 hours')
        ) AS grain (bucket_minutes, length)
    GROUP BY customer_id, bucket_minutes, bucket, service
    ORDER BY customer_id, bucket_minutes, bucket, service
    ON CONFLICT (customer_id, bucket_minutes, bucket, service) DO UPDATE SET
        records = rollup.records + excluded.records,
        units = rollup.units + excluded.units,
        amount = rollup.amount + excluded.amount;
    RETURN CASE WHEN NOT all_new THEN request_ids END;
END
$$;

CREATE FUNCTION record_one_usage(
    customer_id text,
    request_id bytea,
    event_id text,
    service text,
    units_consumed numeric,
    price_per_unit numeric,
    occurred_at timestamptz,
    recorded_at timestamptz,
    idempotency_key text,
    key_id bytea,
    dimensions jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO usage_records (
        customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
        idempotency_key, recorded_by, dimensions
    )
    VALUES (
        customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
        idempotency_key, key_id, dimensions
    )
    ON CONFLICT (customer_id, request_id) DO NOTHING;
    IF NOT FOUND THEN
        PERFORM pg_logical_emit_message(true, 'billing', '');
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
