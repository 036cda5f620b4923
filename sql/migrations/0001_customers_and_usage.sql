-- Customers, and what they used. Every key begins with the customer id, so that the same tables can be
-- distributed by customer; a record is never updated or deleted. Ids compare by code point ("C"), the same everywhere.

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
    -- NaN and Infinity sort above every number, so the upper bound keeps them out too
    CONSTRAINT usage_records_units_consumed_check
        CHECK (units_consumed >= 0 AND units_consumed < 1e38 AND scale(units_consumed) <= 18),
    CONSTRAINT usage_records_price_per_unit_check
        CHECK (price_per_unit >= 0 AND price_per_unit < 1e38 AND scale(price_per_unit) <= 18)
);

CREATE INDEX usage_records_occurred_at_idx ON usage_records (customer_id, occurred_at, request_id);
