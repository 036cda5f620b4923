-- Sums of three hours replace the sums of a day: the midnight of every time zone is close to a boundary of three hours.
-- breaking: older programs read sums of days. The column is renamed so that an older program that is still running fails,
-- instead of returning wrong totals. Nothing can be recorded or summed up while this runs.

ALTER TABLE usage_rollups RENAME COLUMN grain_minutes TO bucket_minutes;

ALTER TABLE usage_rollups DROP CONSTRAINT usage_rollups_grain_minutes_check;

DELETE FROM usage_rollups WHERE bucket_minutes = 1440;

INSERT INTO usage_rollups (customer_id, bucket_minutes, bucket, service, records, units, amount)
SELECT record.customer_id, 180, date_bin('3 hours', record.occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket,
    record.service, count(*), sum(record.units_consumed), sum(record.units_consumed * record.price_per_unit)
FROM usage_records AS record
LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
WHERE void.request_id IS NULL
GROUP BY record.customer_id, bucket, record.service;

ALTER TABLE usage_rollups ADD
    CONSTRAINT usage_rollups_bucket_minutes_check CHECK (bucket_minutes IN (15, 180));

CREATE OR REPLACE FUNCTION record_usage(
    customer_ids text[],
    request_ids bytea[],
    event_ids text[],
    services text[],
    units text[],
    prices text[],
    occurred timestamptz[],
    recorded timestamptz[],
    idempotency_keys text[]
) RETURNS bytea[] LANGUAGE plpgsql AS $$
DECLARE
    fresh_customer_ids text[];
    fresh_request_ids bytea[];
    fresh_services text[];
    fresh_units numeric[];
    fresh_prices numeric[];
    fresh_occurred timestamptz[];
BEGIN
    WITH fresh AS (
        INSERT INTO usage_records (
            customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
            idempotency_key
        )
        SELECT customer_id, request_id, event_id, service, units_consumed::numeric, price_per_unit::numeric,
            occurred_at, recorded_at, idempotency_key
        FROM unnest(
            customer_ids, request_ids, event_ids, services, units, prices, occurred, recorded, idempotency_keys
        ) AS reported (
            customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
            idempotency_key
        )
        ON CONFLICT (customer_id, request_id) DO NOTHING
        RETURNING customer_id, request_id, service, units_consumed, price_per_unit, occurred_at
    )
    SELECT array_agg(customer_id), array_agg(request_id), array_agg(service), array_agg(units_consumed),
        array_agg(price_per_unit), array_agg(occurred_at)
    INTO fresh_customer_ids, fresh_request_ids, fresh_services, fresh_units, fresh_prices, fresh_occurred
    FROM fresh;
    INSERT INTO usage_rollups AS rollup (customer_id, bucket_minutes, bucket, service, records, units, amount)
    SELECT customer_id, bucket_minutes,
        date_bin(bucket_minutes * interval '1 minute', occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket,
        service, count(*), sum(units_consumed), sum(units_consumed * price_per_unit)
    FROM unnest(fresh_customer_ids, fresh_services, fresh_units, fresh_prices, fresh_occurred)
            AS fresh (customer_id, service, units_consumed, price_per_unit, occurred_at)
        CROSS JOIN unnest(ARRAY[15, 180]::smallint[]) AS grain (bucket_minutes)
    GROUP BY customer_id, bucket_minutes, bucket, service
    ORDER BY customer_id, bucket_minutes, bucket, service
    ON CONFLICT (customer_id, bucket_minutes, bucket, service) DO UPDATE SET
        records = rollup.records + excluded.records,
        units = rollup.units + excluded.units,
        amount = rollup.amount + excluded.amount;
    RETURN fresh_request_ids;
END
$$;
