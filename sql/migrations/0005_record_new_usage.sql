-- Most usage is new. An insert that expects this looks each record up once instead of twice, and need not return what it
-- inserted. Older programs keep calling the older function.

-- The sums of the current time are updated again and again. With free space on the page a new version of the row stays
-- there (a HOT update), and no index has to be changed.
ALTER TABLE usage_rollups SET (fillfactor = 50);

-- Records what is new and adds it to the sums. Returns the request ids of what was new, or null if the caller expected all of
-- it to be new and it was. It is one call, so one round trip and one transaction. The arrays are ordered by (customer id,
-- request id), and sums are locked in the order of their key, so that concurrent writers cannot deadlock.
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
    idempotency_keys text[]
) RETURNS bytea[] LANGUAGE plpgsql AS $$
BEGIN
    IF all_new THEN
        BEGIN
            INSERT INTO usage_records (
                customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
                idempotency_key
            )
            SELECT unnest(customer_ids), unnest(request_ids), unnest(event_ids), unnest(services),
                unnest(units::numeric[]), unnest(prices::numeric[]), unnest(occurred), unnest(recorded),
                unnest(idempotency_keys);
        EXCEPTION WHEN unique_violation THEN
            all_new := false;
        END;
    END IF;
    IF NOT all_new THEN
        WITH fresh AS (
            INSERT INTO usage_records (
                customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at,
                idempotency_key
            )
            SELECT unnest(customer_ids), unnest(request_ids), unnest(event_ids), unnest(services),
                unnest(units::numeric[]), unnest(prices::numeric[]), unnest(occurred), unnest(recorded),
                unnest(idempotency_keys)
            ON CONFLICT (customer_id, request_id) DO NOTHING
            RETURNING customer_id, request_id, service, units_consumed, price_per_unit, occurred_at
        )
        SELECT array_agg(customer_id), array_agg(request_id), array_agg(service), array_agg(units_consumed::text),
            array_agg(price_per_unit::text), array_agg(occurred_at)
        INTO customer_ids, request_ids, services, units, prices, occurred
        FROM fresh;
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
    RETURN CASE WHEN NOT all_new THEN coalesce(request_ids, ARRAY[]::bytea[]) END;
END
$$;
