-- Statements are put together from pieces: what a customer's usage of three hours adds up to, and its content hashes. A
-- statement that is issued is stored as it is sent, with a number. Older programs go on as before.

-- How many records of the bucket were voided: with `records` it tells whether a piece has seen all of the bucket. Voids of
-- before and of older programs do not count; then a piece notices that `records` has become less.
ALTER TABLE usage_rollups ADD COLUMN voided bigint NOT NULL DEFAULT 0;

-- A piece as it was at some time (a run). Runs are added and never changed: the one with the highest number is the newest.
-- leaves are content hashes, 32 bytes each, by (recorded_at, request_id): if is_whole those of all records that count, else
-- those that follow the leaves of the run before. subtrees are the full subtrees of the tree of all of them. added and removed
-- are the request ids in which the run differs from the one before. voids are the content hashes of the bucket's voids.
-- services, prices, line_records and line_units are the lines: records of one service at one price, credits apart.
CREATE TABLE usage_pieces (
    customer_id text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    run integer NOT NULL,
    made_at timestamptz NOT NULL,
    records bigint NOT NULL,
    voided bigint NOT NULL,
    root bytea NOT NULL,
    subtrees bytea NOT NULL,
    first_recorded_at timestamptz,
    last_recorded_at timestamptz,
    last_request_id bytea,
    is_whole boolean NOT NULL,
    leaves bytea NOT NULL,
    added bytea NOT NULL,
    removed bytea NOT NULL,
    voids bytea NOT NULL,
    services text[] NOT NULL,
    prices numeric[] NOT NULL,
    line_records bigint[] NOT NULL,
    line_units numeric[] NOT NULL,
    CONSTRAINT usage_pieces_pkey PRIMARY KEY (customer_id, bucket, run),
    CONSTRAINT usage_pieces_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT usage_pieces_root_check CHECK (octet_length(root) = 32)
);

-- document is the statement as it is sent, byte for byte. buckets and runs name the pieces that it was put together from,
-- those at the edges of the month included, of which it has a part only.
CREATE TABLE issued_statements (
    customer_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    month date NOT NULL,
    timezone text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    issued_at timestamptz NOT NULL,
    issued_by bytea,
    records bigint NOT NULL,
    amount numeric NOT NULL,
    rounded numeric NOT NULL,
    document bytea NOT NULL,
    buckets timestamptz[] NOT NULL,
    runs integer[] NOT NULL,
    CONSTRAINT issued_statements_pkey PRIMARY KEY (customer_id, number),
    CONSTRAINT issued_statements_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
    CONSTRAINT issued_statements_number_check CHECK (number > 0),
    CONSTRAINT issued_statements_digest_check CHECK (octet_length(digest) = 32)
);

CREATE INDEX issued_statements_month_idx ON issued_statements (customer_id, month, timezone, number);

-- The parts of content hashes: see content_hashes.py of the client.
CREATE FUNCTION content_instant(instant timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

CREATE FUNCTION content_dimensions(dimensions jsonb) RETURNS text LANGUAGE sql STABLE STRICT AS $$
    SELECT string_agg(',' || to_json('dimension.' || key)::text || ',' || to_json(value)::text, '' ORDER BY key COLLATE "C")
    FROM jsonb_each_text(dimensions)
$$;

CREATE FUNCTION record_content_hash(
    customer_id text,
    request_id bytea,
    event_id text,
    service text,
    units_consumed numeric,
    price_per_unit numeric,
    occurred_at timestamptz,
    recorded_at timestamptz,
    recorded_by bytea,
    dimensions jsonb
) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(
        '["record.v1",' || to_json(customer_id)::text || ',"' || encode(request_id, 'hex') || '",' || to_json(service)::text
        || ',"' || trim_scale(units_consumed)::text || '","' || trim_scale(price_per_unit)::text
        || '","' || content_instant(occurred_at) || '","' || content_instant(recorded_at) || '"'
        || coalesce(content_dimensions(dimensions), '')
        || coalesce(',"eventId",' || to_json(event_id)::text, '')
        || coalesce(',"recordedBy","bk_' || encode(recorded_by, 'hex') || '"', '') || ']',
        'UTF8'
    ))
$$;

CREATE FUNCTION void_content_hash(
    customer_id text,
    request_id bytea,
    voided_at timestamptz,
    voided_by text,
    reason text,
    voided_for text
) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(
        '["void.v1",' || to_json(customer_id)::text || ',"' || encode(request_id, 'hex') || '","' || content_instant(voided_at)
        || '",' || to_json(voided_by)::text || ',' || to_json(reason)::text
        || coalesce(',"voidedFor",' || to_json(voided_for)::text, '') || ']',
        'UTF8'
    ))
$$;
