-- Dimensions and credits. Older programs keep calling the older functions, which know neither: give no key the scope
-- usage:credit, and prepare no dimension, before all programs are of this version. Each statement takes milliseconds.

-- Dimensions of usage: pairs of text such as {"model": "large"}; null without any.

ALTER TABLE usage_records ADD COLUMN dimensions jsonb;

-- At most 16 pairs of 64 and 200 characters, of 4 bytes at most.
ALTER TABLE usage_records ADD CONSTRAINT usage_records_dimensions_check CHECK (
    jsonb_typeof(dimensions) = 'object' AND dimensions <> '{}' AND pg_column_size(dimensions) <= 18000
) NOT VALID;

-- A credit has negative units. What is there passed the stricter check, so it need not be read again.
ALTER TABLE usage_records DROP CONSTRAINT usage_records_units_consumed_check;

ALTER TABLE usage_records ADD CONSTRAINT usage_records_units_consumed_check CHECK (
    units_consumed > -1e38 AND units_consumed < 1e38 AND scale(units_consumed) <= 18
) NOT VALID;

ALTER TABLE usage_rollups DROP CONSTRAINT usage_rollups_records_check;

ALTER TABLE usage_rollups ADD CONSTRAINT usage_rollups_records_check CHECK (records >= 0) NOT VALID;

-- Sums of the credits alone. They are in usage_rollups as well.
CREATE TABLE credit_rollups (
    customer_id text COLLATE "C" NOT NULL,
    bucket_minutes smallint NOT NULL,
    bucket timestamptz NOT NULL,
    service text COLLATE "C" NOT NULL,
    records bigint NOT NULL,
    units numeric NOT NULL,
    amount numeric NOT NULL,
    CONSTRAINT credit_rollups_pkey PRIMARY KEY (customer_id, bucket_minutes, bucket, service),
    CONSTRAINT credit_rollups_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT credit_rollups_bucket_minutes_check CHECK (bucket_minutes IN (15, 180)),
    CONSTRAINT credit_rollups_records_check CHECK (records >= 0 AND units <= 0 AND amount <= 0)
);

-- The dimensions that are summed up with the records. Those of before are summed up customer by customer, up to the customer
-- filled_to; filled_at is when all of them were. The table has a few rows; if the others are distributed, this one is not.
CREATE TABLE prepared_dimensions (
    dimension text COLLATE "C" NOT NULL,
    added_at timestamptz NOT NULL,
    filled_to text COLLATE "C" NOT NULL DEFAULT '',
    filled_at timestamptz,
    CONSTRAINT prepared_dimensions_pkey PRIMARY KEY (dimension)
);

-- Sums of the records that have a prepared dimension, by its value. The buckets of 1440 minutes are days of UTC: a month of
-- them has as few rows as its buckets of three hours have without values.
CREATE TABLE dimension_rollups (
    customer_id text COLLATE "C" NOT NULL,
    dimension text COLLATE "C" NOT NULL,
    bucket_minutes smallint NOT NULL,
    bucket timestamptz NOT NULL,
    service text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    records bigint NOT NULL,
    units numeric NOT NULL,
    amount numeric NOT NULL,
    credit_records bigint NOT NULL,
    credit_units numeric NOT NULL,
    credit_amount numeric NOT NULL,
    CONSTRAINT dimension_rollups_pkey PRIMARY KEY (customer_id, dimension, bucket_minutes, bucket, service, value),
    CONSTRAINT dimension_rollups_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT dimension_rollups_bucket_minutes_check CHECK (bucket_minutes IN (15, 180, 1440)),
    CONSTRAINT dimension_rollups_records_check CHECK (records >= 0 AND credit_records >= 0)
) WITH (fillfactor = 50);

-- Adds records to the sums of those of their dimensions that are prepared. The lock keeps out whoever sums up what was there
-- before: that one sees either a record or none of its sums. The buckets are those of dimension_rollups.
CREATE FUNCTION add_to_dimension_rollups(
    customer_ids text[],
    services text[],
    units numeric[],
    prices numeric[],
    occurred timestamptz[],
    all_dimensions jsonb[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    prepared text[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('billing_service.prepared_dimensions'));
    SELECT array_agg(dimension) INTO prepared FROM prepared_dimensions;
    IF prepared IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO dimension_rollups AS rollup (
        customer_id, dimension, bucket_minutes, bucket, service, value,
        records, units, amount, credit_records, credit_units, credit_amount
    )
    SELECT customer_id, dimension, bucket_minutes,
        date_bin(length, occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket, service, dimensions ->> dimension AS value,
        count(*), sum(units_consumed), sum(units_consumed * price_per_unit),
        count(*) FILTER (WHERE units_consumed < 0),
        coalesce(sum(units_consumed) FILTER (WHERE units_consumed < 0), 0),
        coalesce(sum(units_consumed * price_per_unit) FILTER (WHERE units_consumed < 0), 0)
    FROM (
        SELECT unnest(customer_ids) AS customer_id, unnest(services) AS service, unnest(units) AS units_consumed,
            unnest(prices) AS price_per_unit, unnest(occurred) AS occurred_at, unnest(all_dimensions) AS dimensions
    ) AS fresh
        CROSS JOIN unnest(prepared) AS names (dimension)
        CROSS JOIN (
            VALUES
                (15::smallint, interval '15 minutes'), (180::smallint, interval '3 hours'),
                (1440::smallint, interval '1 day')
        ) AS grain (bucket_minutes, length)
    WHERE dimensions ? dimension
    GROUP BY customer_id, dimension, bucket_minutes, bucket, service, value
    ORDER BY customer_id, dimension, bucket_minutes, bucket, service, value
    ON CONFLICT (customer_id, dimension, bucket_minutes, bucket, service, value) DO UPDATE SET
        records = rollup.records + excluded.records,
        units = rollup.units + excluded.units,
        amount = rollup.amount + excluded.amount,
        credit_records = rollup.credit_records + excluded.credit_records,
        credit_units = rollup.credit_units + excluded.credit_units,
        credit_amount = rollup.credit_amount + excluded.credit_amount;
END
$$;

-- As before, with dimensions and credits. all_dimensions is null if no record has any; has_credits tells whether any units
-- are negative.
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
    all_dimensions jsonb[],
    has_credits boolean
) RETURNS bytea[] LANGUAGE plpgsql AS $$
DECLARE
    has_dimensions boolean := all_dimensions IS NOT NULL;
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
        EXCEPTION WHEN unique_violation OR internal_error THEN  -- Citus loses the SQLSTATE of a row that it copies
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
            RETURNING customer_id, request_id, service, units_consumed, price_per_unit, occurred_at, dimensions
        )
        SELECT array_agg(customer_id), array_agg(request_id), array_agg(service), array_agg(units_consumed::text),
            array_agg(price_per_unit::text), array_agg(occurred_at), array_agg(dimensions)
        INTO customer_ids, request_ids, services, units, prices, occurred, all_dimensions
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
    IF has_credits THEN
        INSERT INTO credit_rollups AS rollup (customer_id, bucket_minutes, bucket, service, records, units, amount)
        SELECT customer_id, bucket_minutes,
            date_bin(length, occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket, service,
            count(*), sum(units_consumed), sum(units_consumed * price_per_unit)
        FROM (
            SELECT unnest(customer_ids) AS customer_id, unnest(services) AS service,
                unnest(units::numeric[]) AS units_consumed, unnest(prices::numeric[]) AS price_per_unit,
                unnest(occurred) AS occurred_at
        ) AS fresh
            CROSS JOIN (
                VALUES (15::smallint, interval '15 minutes'), (180::smallint, interval '3 hours')
            ) AS grain (bucket_minutes, length)
        WHERE units_consumed < 0
        GROUP BY customer_id, bucket_minutes, bucket, service
        ORDER BY customer_id, bucket_minutes, bucket, service
        ON CONFLICT (customer_id, bucket_minutes, bucket, service) DO UPDATE SET
            records = rollup.records + excluded.records,
            units = rollup.units + excluded.units,
            amount = rollup.amount + excluded.amount;
    END IF;
    IF has_dimensions THEN
        PERFORM add_to_dimension_rollups(
            customer_ids, services, units::numeric[], prices::numeric[], occurred, all_dimensions
        );
    END IF;
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
    IF units_consumed < 0 THEN
        INSERT INTO credit_rollups AS rollup (customer_id, bucket_minutes, bucket, service, records, units, amount)
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
    END IF;
    IF dimensions IS NOT NULL THEN
        PERFORM add_to_dimension_rollups(
            ARRAY[customer_id], ARRAY[service], ARRAY[units_consumed], ARRAY[price_per_unit], ARRAY[occurred_at],
            ARRAY[dimensions]
        );
    END IF;
    RETURN true;
END
$$;
