-- Customers, their usage, and its sums. Every key starts with the customer id, so that the tables can be distributed by
-- customer. Records are never updated or deleted. Ids are compared by code point (collation "C"), which is the same everywhere.

CREATE TABLE customers (
    customer_id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    idempotency_key text,
    CONSTRAINT customers_pkey PRIMARY KEY (customer_id)
);

CREATE TABLE usage_records (
    customer_id text COLLATE "C" NOT NULL,
    request_id bytea NOT NULL,
    event_id text COLLATE "C",
    service text COLLATE "C" NOT NULL,
    units_consumed numeric NOT NULL,
    price_per_unit numeric NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    idempotency_key text,
    CONSTRAINT usage_records_pkey PRIMARY KEY (customer_id, request_id),
    CONSTRAINT usage_records_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT usage_records_request_id_check CHECK (octet_length(request_id) = 32),
    -- NaN and Infinity sort above every number, so the upper bound excludes them too
    CONSTRAINT usage_records_units_consumed_check CHECK (
        units_consumed >= 0 AND units_consumed < 1e38 AND scale(units_consumed) <= 18
    ),
    CONSTRAINT usage_records_price_per_unit_check CHECK (
        price_per_unit >= 0 AND price_per_unit < 1e38 AND scale(price_per_unit) <= 18
    )
);

CREATE INDEX usage_records_occurred_at_idx ON usage_records (customer_id, occurred_at, request_id);

-- A void takes a record out of the totals. The record itself stays.
CREATE TABLE usage_voids (
    customer_id text COLLATE "C" NOT NULL,
    request_id bytea NOT NULL,
    reason text NOT NULL,
    voided_by text NOT NULL,
    voided_at timestamptz NOT NULL,
    CONSTRAINT usage_voids_pkey PRIMARY KEY (customer_id, request_id),
    CONSTRAINT usage_voids_usage_record_fkey FOREIGN KEY (customer_id, request_id) REFERENCES usage_records
);

-- Sums of the records that are not voided, by UTC day and by quarter of an hour. The hours, days and months of every time
-- zone consist of quarters of an hour. Sums are written in the same transaction as the records.
CREATE TABLE usage_rollups (
    customer_id text COLLATE "C" NOT NULL,
    grain_minutes smallint NOT NULL,
    bucket timestamptz NOT NULL,
    service text COLLATE "C" NOT NULL,
    records bigint NOT NULL,
    units numeric NOT NULL,
    amount numeric NOT NULL,
    CONSTRAINT usage_rollups_pkey PRIMARY KEY (customer_id, grain_minutes, bucket, service),
    CONSTRAINT usage_rollups_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT usage_rollups_grain_minutes_check CHECK (grain_minutes IN (15, 1440)),
    CONSTRAINT usage_rollups_records_check CHECK (records >= 0 AND units >= 0 AND amount >= 0)
);

-- Statements as issued, so that a later one can say what has changed: the lines, and which records were added or voided.
-- Everything up to settled_at was visible to the statement. Of what is later, only the records in recently_recorded and
-- recently_voided were, because a transaction can commit after a statement that its timestamps are older than.
CREATE TABLE statements (
    customer_id text COLLATE "C" NOT NULL,
    month date NOT NULL,
    timezone text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    issued_at timestamptz NOT NULL,
    lines jsonb NOT NULL,
    settled_at timestamptz NOT NULL,
    recently_recorded bytea[] NOT NULL,
    recently_voided bytea[] NOT NULL,
    CONSTRAINT statements_pkey PRIMARY KEY (customer_id, month, timezone, digest),
    CONSTRAINT statements_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT statements_digest_check CHECK (octet_length(digest) = 32)
);

-- Records what is new and adds it to the sums. Returns the request ids of what was new. It is one call, so one round trip
-- and one transaction. The arrays are ordered by (customer id, request id), and sums are locked in the order of their key,
-- so that concurrent writers cannot deadlock.
CREATE FUNCTION record_usage(
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
    INSERT INTO usage_rollups AS rollup (customer_id, grain_minutes, bucket, service, records, units, amount)
    SELECT customer_id, grain_minutes,
        date_bin(grain_minutes * interval '1 minute', occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket,
        service, count(*), sum(units_consumed), sum(units_consumed * price_per_unit)
    FROM unnest(fresh_customer_ids, fresh_services, fresh_units, fresh_prices, fresh_occurred)
            AS fresh (customer_id, service, units_consumed, price_per_unit, occurred_at)
        CROSS JOIN unnest(ARRAY[15, 1440]::smallint[]) AS grain (grain_minutes)
    GROUP BY customer_id, grain_minutes, bucket, service
    ORDER BY customer_id, grain_minutes, bucket, service
    ON CONFLICT (customer_id, grain_minutes, bucket, service) DO UPDATE SET
        records = rollup.records + excluded.records,
        units = rollup.units + excluded.units,
        amount = rollup.amount + excluded.amount;
    RETURN fresh_request_ids;
END
$$;
