-- without_jit: do not compile queries until the end of the transaction. The planner takes these for more costly than they
-- are, and to compile one takes longer than to run it
SELECT set_config('jit', 'off', true);

-- read_pieces: each 3-hour bucket from $2 to $3 in which there was usage: what the sums say, and the newest piece of it
SELECT rollup.bucket, rollup.records, rollup.voided, piece.run, piece.records AS piece_records,
    piece.voided AS piece_voided, piece.root, piece.subtrees, piece.first_recorded_at, piece.last_recorded_at,
    piece.last_request_id
FROM (
    SELECT bucket, sum(records)::bigint AS records, sum(voided)::bigint AS voided
    FROM usage_rollups
    WHERE customer_id = $1 AND bucket_minutes = 180 AND bucket >= $2::timestamptz AND bucket < $3::timestamptz
    GROUP BY bucket
) AS rollup
LEFT JOIN LATERAL (
    SELECT run, records, voided, root, subtrees, first_recorded_at, last_recorded_at, last_request_id
    FROM usage_pieces
    WHERE customer_id = $1 AND usage_pieces.bucket = rollup.bucket
    ORDER BY run DESC
    LIMIT 1
) AS piece ON true
ORDER BY rollup.bucket;

-- hash_spans: for each of some spans of time ($2 to $3) what a piece needs, from the records: content hashes and request ids
-- of those that count by (recorded_at, request_id), of the voided ones, hashes of the voids, and lines, of which late_ is
-- what was recorded at $4 or later
WITH span AS (
    SELECT place, first, last
    FROM unnest($2::timestamptz[], $3::timestamptz[]) WITH ORDINALITY AS span (first, last, place)
), record AS MATERIALIZED (
    SELECT span.place, found.*
    FROM span
    CROSS JOIN LATERAL (
        SELECT record.request_id, record.service, record.units_consumed, record.price_per_unit, record.recorded_at,
            record_content_hash(
                record.customer_id, record.request_id, record.event_id, record.service, record.units_consumed,
                record.price_per_unit, record.occurred_at, record.recorded_at, record.recorded_by, record.dimensions
            ) AS hash,
            void.voided_at IS NULL AS counts, void.voided_at,
            CASE WHEN void.voided_at IS NOT NULL THEN void_content_hash(
                void.customer_id, void.request_id, void.voided_at, void.voided_by, void.reason, void.voided_for
            ) END AS void_hash
        FROM usage_records AS record
        LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
        WHERE record.customer_id = $1 AND record.occurred_at >= span.first AND record.occurred_at < span.last
        OFFSET 0 -- each span by the index, not all records of the customer compared with each span
    ) AS found
), tree AS (
    SELECT place,
        string_agg(hash, '' ORDER BY recorded_at, request_id) FILTER (WHERE counts) AS leaves,
        string_agg(request_id, '' ORDER BY recorded_at, request_id) FILTER (WHERE counts) AS ids,
        string_agg(hash, '' ORDER BY voided_at, request_id) FILTER (WHERE NOT counts) AS voided_leaves,
        string_agg(request_id, '' ORDER BY voided_at, request_id) FILTER (WHERE NOT counts) AS voided_ids,
        string_agg(void_hash, '' ORDER BY voided_at, request_id) AS voids,
        min(recorded_at) FILTER (WHERE counts) AS first_recorded_at,
        max(recorded_at) FILTER (WHERE counts) AS last_recorded_at
    FROM record
    GROUP BY place
), line AS (
    SELECT place, service, price_per_unit, count(*) AS records, sum(units_consumed) AS units,
        count(*) FILTER (WHERE recorded_at >= $4::timestamptz) AS late_records,
        coalesce(sum(units_consumed) FILTER (WHERE recorded_at >= $4), 0) AS late_units
    FROM record
    WHERE counts
    GROUP BY place, service, price_per_unit, units_consumed < 0
), lines AS (
    SELECT place, array_agg(service) AS services, array_agg(trim_scale(price_per_unit)::text) AS prices,
        array_agg(records) AS line_records, array_agg(trim_scale(units)::text) AS line_units,
        array_agg(late_records) AS late_records, array_agg(trim_scale(late_units)::text) AS late_units
    FROM line
    GROUP BY place
)
SELECT span.first, coalesce(leaves, '') AS leaves, coalesce(ids, '') AS ids, coalesce(voided_leaves, '') AS voided_leaves,
    coalesce(voided_ids, '') AS voided_ids, coalesce(voids, '') AS voids, first_recorded_at, last_recorded_at,
    coalesce(services, '{}') AS services, coalesce(prices, '{}') AS prices, coalesce(line_records, '{}') AS line_records,
    coalesce(line_units, '{}') AS line_units, coalesce(late_records, '{}') AS late_records,
    coalesce(late_units, '{}') AS late_units
FROM span
LEFT JOIN tree ON tree.place = span.place
LEFT JOIN lines ON lines.place = span.place
ORDER BY span.place;

-- late_arrivals: what was recorded of some buckets ($2) more than an hour late, after a record ($3, $4) of the bucket, by
-- (bucket, recorded_at, request_id); without voided ones
SELECT piece.bucket, record.request_id, record.service, trim_scale(record.price_per_unit)::text AS price_per_unit,
    trim_scale(record.units_consumed)::text AS units_consumed, record.occurred_at, record.recorded_at, record.hash
FROM unnest($2::timestamptz[], $3::timestamptz[], $4::bytea[]) AS piece (bucket, last_recorded_at, last_request_id)
CROSS JOIN LATERAL (
    SELECT found.request_id, found.service, found.price_per_unit, found.units_consumed, found.occurred_at,
        found.recorded_at, record_content_hash(
            found.customer_id, found.request_id, found.event_id, found.service, found.units_consumed,
            found.price_per_unit, found.occurred_at, found.recorded_at, found.recorded_by, found.dimensions
        ) AS hash
    FROM usage_records AS found
    LEFT JOIN usage_voids AS void ON void.customer_id = found.customer_id AND void.request_id = found.request_id
    WHERE found.customer_id = $1
        AND date_bin('3 hours', found.occurred_at, timestamptz '2000-01-01T00:00:00Z') = piece.bucket
        AND (found.recorded_at, found.request_id) > (piece.last_recorded_at, piece.last_request_id)
        AND found.recorded_at - found.occurred_at > interval '1 hour'
        AND void.request_id IS NULL
    ORDER BY found.recorded_at, found.request_id
    LIMIT $5
) AS record
ORDER BY piece.bucket, record.recorded_at, record.request_id;

-- sum_lines: what the lines of some pieces add up to by service and price, credits apart
SELECT service, trim_scale(price)::text AS price_per_unit, units < 0 AS is_credit, sum(records)::bigint AS records,
    trim_scale(sum(units))::text AS units
FROM unnest($2::timestamptz[], $3::integer[]) AS wanted (bucket, run)
CROSS JOIN LATERAL (
    SELECT line.service, line.price, line.records, line.units
    FROM usage_pieces AS piece
    CROSS JOIN LATERAL unnest(piece.services, piece.prices, piece.line_records, piece.line_units)
        AS line (service, price, records, units)
    WHERE piece.customer_id = $1 AND piece.bucket = wanted.bucket AND piece.run = wanted.run
) AS line
GROUP BY service, price, units < 0;

-- late_lines: what occurred in some buckets ($2) from $4 to $5, and was recorded at $3 or later and more than an hour late,
-- adds up to by service and price, credits apart, without voided ones
SELECT record.service, trim_scale(record.price_per_unit)::text AS price_per_unit, record.units_consumed < 0 AS is_credit,
    count(*) AS records, trim_scale(sum(record.units_consumed))::text AS units
FROM unnest($2::timestamptz[]) AS wanted (bucket)
CROSS JOIN LATERAL (
    SELECT found.service, found.price_per_unit, found.units_consumed
    FROM usage_records AS found
    LEFT JOIN usage_voids AS void ON void.customer_id = found.customer_id AND void.request_id = found.request_id
    WHERE found.customer_id = $1
        AND date_bin('3 hours', found.occurred_at, timestamptz '2000-01-01T00:00:00Z') = wanted.bucket
        AND found.recorded_at >= $3::timestamptz
        AND found.recorded_at - found.occurred_at > interval '1 hour'
        AND found.occurred_at >= $4::timestamptz AND found.occurred_at < $5::timestamptz
        AND void.request_id IS NULL
    OFFSET 0
) AS record
GROUP BY record.service, record.price_per_unit, record.units_consumed < 0;

-- just_late_lines: as late_lines, of what occurred from $2 to $3 and was recorded at $4 or later, but at most an hour late
SELECT service, trim_scale(price_per_unit)::text AS price_per_unit, units_consumed < 0 AS is_credit, count(*) AS records,
    trim_scale(sum(units_consumed))::text AS units
FROM usage_records
LEFT JOIN usage_voids USING (customer_id, request_id)
WHERE customer_id = $1 AND occurred_at >= $2::timestamptz AND occurred_at < $3::timestamptz
    AND recorded_at >= $4::timestamptz AND recorded_at - occurred_at <= interval '1 hour' AND voided_at IS NULL
GROUP BY service, price_per_unit, units_consumed < 0;

-- stored_leaves: the leaves of a piece at run $3, oldest run first: those of its last whole run and of what was added since
SELECT run, is_whole, leaves
FROM usage_pieces AS piece
WHERE customer_id = $1 AND bucket = $2 AND run <= $3 AND run >= (
    SELECT max(run) FROM usage_pieces AS whole
    WHERE whole.customer_id = $1 AND whole.bucket = $2 AND whole.run <= $3 AND whole.is_whole
)
ORDER BY run;

-- run_changes: the request ids in which some pieces ($2) differ from earlier runs of them ($3), run by run
SELECT bucket, run, added, removed
FROM unnest($2::timestamptz[], $3::integer[], $4::integer[]) AS piece (wanted, before, after)
CROSS JOIN LATERAL (
    SELECT bucket, run, added, removed
    FROM usage_pieces
    WHERE customer_id = $1 AND bucket = wanted AND run > before AND run <= after
) AS later
ORDER BY bucket, run;

-- piece_roots: records and root of some pieces ($2) at some runs ($3), by bucket
SELECT piece.bucket, piece.run, piece.records, piece.root
FROM unnest($2::timestamptz[], $3::integer[]) AS wanted (bucket, run)
JOIN usage_pieces AS piece ON piece.customer_id = $1 AND piece.bucket = wanted.bucket AND piece.run = wanted.run
ORDER BY piece.bucket;

-- add_piece: add a run of a piece; does nothing if another program added it meanwhile
INSERT INTO usage_pieces (
    customer_id, bucket, run, made_at, records, voided, root, subtrees, first_recorded_at, last_recorded_at,
    last_request_id, is_whole, leaves, added, removed, voids, services, prices, line_records, line_units
)
VALUES (
    $1, $2, $3, clock_timestamp(), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17::text[]::numeric[],
    $18, $19::text[]::numeric[]
)
ON CONFLICT (customer_id, bucket, run) DO NOTHING;

-- piece_lines: the lines of a piece at a run, and the hashes of its voids
SELECT services, prices::text[] AS prices, line_records, line_units::text[] AS line_units, voids
FROM usage_pieces
WHERE customer_id = $1 AND bucket = $2 AND run = $3;

-- read_parts: the stored parts of some buckets ($2) at some runs ($3), each with when it begins and ends ($4, $5)
SELECT part.bucket, part.records, part.subtrees, part.first_recorded_at, part.last_recorded_at, part.services,
    part.prices::text[] AS prices, part.line_records, part.line_units::text[] AS line_units
FROM unnest($2::timestamptz[], $3::integer[], $4::timestamptz[], $5::timestamptz[])
    AS wanted (bucket, run, starts_at, ends_at)
JOIN usage_piece_parts AS part ON part.customer_id = $1 AND part.bucket = wanted.bucket AND part.run = wanted.run
    AND part.starts_at = wanted.starts_at AND part.ends_at = wanted.ends_at;

-- add_part: keep a part of a piece; does nothing if another program did meanwhile
INSERT INTO usage_piece_parts (
    customer_id, bucket, run, starts_at, ends_at, records, subtrees, first_recorded_at, last_recorded_at, services,
    prices, line_records, line_units
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text[]::numeric[], $12, $13::text[]::numeric[])
ON CONFLICT (customer_id, bucket, run, starts_at, ends_at) DO NOTHING;

-- all_parts: a page of the parts of the newest runs of all pieces, after one of them ($1 to $5), for verification
SELECT customer_id, bucket, run, starts_at, ends_at, records, subtrees, services, prices::text[] AS prices, line_records,
    line_units::text[] AS line_units
FROM usage_piece_parts AS part
WHERE NOT EXISTS (
    SELECT FROM usage_pieces AS piece
    WHERE piece.customer_id = part.customer_id AND piece.bucket = part.bucket AND piece.run > part.run
)
    AND (customer_id, bucket, run, starts_at, ends_at)
        > ($1, $2::timestamptz, $3::integer, $4::timestamptz, $5::timestamptz)
ORDER BY customer_id, bucket, run, starts_at, ends_at
LIMIT $6;

-- try_lock: whether this program is the one that prepares pieces until the end of the transaction
SELECT pg_try_advisory_xact_lock(hashtext('billing_service.pieces'), hashtext($1));

-- stale_customers: those of some customers ($1) whose pieces do not know all of the usage from $2 to $3, each with when the
-- first of it begins. A piece that was made at $4 or later is left alone, unless it is the first of its bucket
SELECT rollup.customer_id, min(rollup.bucket) AS first
FROM (
    SELECT customer_id, bucket, sum(records)::bigint AS records, sum(voided)::bigint AS voided
    FROM usage_rollups
    WHERE customer_id = ANY($1::text[]) AND bucket_minutes = 180 AND bucket >= $2::timestamptz AND bucket < $3::timestamptz
    GROUP BY customer_id, bucket
) AS rollup
LEFT JOIN (
    SELECT DISTINCT ON (customer_id, bucket) customer_id, bucket, records, voided, made_at
    FROM usage_pieces
    WHERE customer_id = ANY($1) AND bucket >= $2 AND bucket < $3
    ORDER BY customer_id, bucket, run DESC
) AS piece ON piece.customer_id = rollup.customer_id AND piece.bucket = rollup.bucket
WHERE piece.records IS NULL
    OR piece.made_at < $4::timestamptz AND (piece.records <> rollup.records OR piece.voided <> rollup.voided)
GROUP BY rollup.customer_id
ORDER BY rollup.customer_id;

-- newest_pieces: a page of the newest runs of all pieces, after a customer and bucket ($1, $2), for verification
SELECT DISTINCT ON (customer_id, bucket) customer_id, bucket, run, made_at, records, root, voids, services,
    prices::text[] AS prices, line_records, line_units::text[] AS line_units
FROM usage_pieces
WHERE (customer_id, bucket) > ($1, $2::timestamptz)
ORDER BY customer_id, bucket, run DESC
LIMIT $3;

-- recorded_before: those of some records ($2) of a customer that were recorded before $3
SELECT request_id FROM usage_records WHERE customer_id = $1 AND request_id = ANY($2::bytea[]) AND recorded_at < $3;
