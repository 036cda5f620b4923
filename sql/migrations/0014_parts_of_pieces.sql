-- Where a month of a time zone does not begin or end at a third hour of UTC, its statement has a part of a piece only. Parts
-- of many records are kept with the run that they are a part of. Older programs go on as before: they read the records.
CREATE TABLE usage_piece_parts (
    customer_id text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    run integer NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    records bigint NOT NULL,
    subtrees bytea NOT NULL,
    first_recorded_at timestamptz,
    last_recorded_at timestamptz,
    services text[] NOT NULL,
    prices numeric[] NOT NULL,
    line_records bigint[] NOT NULL,
    line_units numeric[] NOT NULL,
    CONSTRAINT usage_piece_parts_pkey PRIMARY KEY (customer_id, bucket, run, starts_at, ends_at),
    CONSTRAINT usage_piece_parts_span_check CHECK (starts_at < ends_at)
);

ALTER TABLE usage_piece_parts
    ADD CONSTRAINT usage_piece_parts_customer_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id);
