-- take_from_rollups: subtract a voided record from one sum
UPDATE usage_rollups
SET records = records - 1, units = units - $5::text::numeric, amount = amount - $6::text::numeric, voided = voided + 1
WHERE customer_id = $1 AND bucket_minutes = $2 AND bucket = $3 AND service = $4;

-- take_from_credits: subtract a voided credit from one sum
UPDATE credit_rollups
SET records = records - 1, units = units - $5::text::numeric, amount = amount - $6::text::numeric
WHERE customer_id = $1 AND bucket_minutes = $2 AND bucket = $3 AND service = $4;

-- lock_dimensions: as whoever records usage with dimensions of the customer $1 does; see add_to_dimension_rollups, and keep_out
SELECT pg_advisory_xact_lock_shared(hashtext('billing_service.prepared_dimensions')) FROM customers WHERE customer_id = $1;

-- prepared_dimensions: the names of the dimensions that are summed up with the records
SELECT dimension FROM prepared_dimensions ORDER BY dimension;

-- take_from_dimensions: subtract a voided record from one sum by a dimension. A sum that is still being filled may not hold it
UPDATE dimension_rollups AS rollup
SET records = records - 1, units = units - $7::text::numeric, amount = amount - $8::text::numeric,
    credit_records = credit_records - ($7::text::numeric < 0)::integer,
    credit_units = credit_units - least($7::text::numeric, 0),
    credit_amount = credit_amount - least($8::text::numeric, 0)
WHERE customer_id = $1 AND dimension = $2 AND bucket_minutes = $3 AND bucket = $4 AND service = $5 AND value = $6
    AND records > 0;

-- used_buckets: the UTC intervals of length $3 between $4 and $5 in which a customer has usage, found in the rollups of $2
-- minutes
SELECT DISTINCT date_bin($3::interval, bucket, timestamptz '2000-01-01T00:00:00Z') AS start
FROM usage_rollups
WHERE customer_id = $1 AND bucket_minutes = $2 AND bucket >= $4::timestamptz AND bucket < $5::timestamptz AND records > 0
ORDER BY start
LIMIT $6;

-- read_groups: a page of at most $3 totals of a customer by period and, if $2, by service, after a period and service ($4,
-- $5). only_service and only_credit_service name the service that all of them, or all credits, are of; null for several. The
-- pieces of a period are rollups of a time ($6 to $9) and single records ($10 to $12), each with the start of its period.
-- Each piece is looked up in an index and added up by itself, which is faster than adding all rows to their group.
SELECT period, service, sum(records)::bigint AS records, trim_scale(sum(units))::text AS units,
    trim_scale(sum(amount))::text AS amount,
    CASE WHEN min(first_service) = max(last_service) THEN min(first_service) END AS only_service,
    coalesce(sum(credit_records), 0)::bigint AS credit_records, trim_scale(sum(credit_units))::text AS credit_units,
    trim_scale(sum(credit_amount))::text AS credit_amount,
    CASE WHEN min(first_credit) = max(last_credit) THEN min(first_credit) END AS only_credit_service
FROM (
    SELECT period, service, records, units, amount, first_service, last_service,
        NULL::bigint AS credit_records, NULL::numeric AS credit_units, NULL::numeric AS credit_amount,
        NULL::text AS first_credit, NULL::text AS last_credit
    FROM unnest($6::timestamptz[], $7::smallint[], $8::timestamptz[], $9::timestamptz[])
        AS piece (period, minutes, first, last)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN $2::boolean THEN service ELSE '' END AS service,
            sum(records) AS records, sum(units) AS units, sum(amount) AS amount,
            min(service) AS first_service, max(service) AS last_service
        FROM usage_rollups
        WHERE customer_id = $1 AND bucket_minutes = minutes AND bucket >= first AND bucket < last AND records > 0
        GROUP BY 1
    ) AS rollup
    UNION ALL
    SELECT period, service, NULL, NULL, NULL, NULL, NULL, records, units, amount, first_service, last_service
    FROM unnest($6, $7, $8, $9) AS piece (period, minutes, first, last)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN $2 THEN service ELSE '' END AS service,
            sum(records) AS records, sum(units) AS units, sum(amount) AS amount,
            min(service) AS first_service, max(service) AS last_service
        FROM credit_rollups
        WHERE customer_id = $1 AND bucket_minutes = minutes AND bucket >= first AND bucket < last AND records > 0
        GROUP BY 1
    ) AS credit
    WHERE (SELECT customer_id FROM credit_rollups WHERE customer_id = $1 ORDER BY bucket_minutes, bucket LIMIT 1) IS NOT NULL
    UNION ALL
    SELECT period, service, records, units, amount, first_service, last_service, credit_records, credit_units,
        credit_amount, first_credit, last_credit
    FROM unnest($10::timestamptz[], $11::timestamptz[], $12::timestamptz[]) AS piece (period, first, last)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN $2 THEN record.service ELSE '' END AS service,
            count(*) AS records, sum(units_consumed) AS units, sum(units_consumed * price_per_unit) AS amount,
            min(record.service) AS first_service, max(record.service) AS last_service,
            count(*) FILTER (WHERE units_consumed < 0) AS credit_records,
            sum(units_consumed) FILTER (WHERE units_consumed < 0) AS credit_units,
            sum(units_consumed * price_per_unit) FILTER (WHERE units_consumed < 0) AS credit_amount,
            min(record.service) FILTER (WHERE units_consumed < 0) AS first_credit,
            max(record.service) FILTER (WHERE units_consumed < 0) AS last_credit
        FROM usage_records AS record
        LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
        WHERE record.customer_id = $1 AND occurred_at >= first AND occurred_at < last AND void.request_id IS NULL
        GROUP BY 1
    ) AS record
) AS part
WHERE (period, service) > ($4::timestamptz, $5::text)
GROUP BY period, service
HAVING sum(records) > 0
ORDER BY period, service
LIMIT $3;

-- filled_dimensions: the names of the dimensions whose sums hold all records
SELECT dimension FROM prepared_dimensions WHERE filled_at IS NOT NULL ORDER BY dimension;

-- verify_rollups: every sum that differs from what its records add up to, as stored and as recomputed
SELECT customer_id, bucket_minutes, bucket, service,
    sum(stored_records)::bigint AS stored_records, sum(records)::bigint AS records,
    trim_scale(sum(stored_units))::text AS stored_units, trim_scale(sum(units))::text AS units,
    trim_scale(sum(stored_amount))::text AS stored_amount, trim_scale(sum(amount))::text AS amount
FROM (
    SELECT customer_id, bucket_minutes, bucket, service, records AS stored_records, units AS stored_units,
        amount AS stored_amount, 0 AS records, 0::numeric AS units, 0::numeric AS amount
    FROM usage_rollups
    UNION ALL
    SELECT record.customer_id, 15, date_bin('15 minutes', record.occurred_at, timestamptz '2000-01-01T00:00:00Z'),
        record.service, 0, 0, 0, 1, record.units_consumed, record.units_consumed * record.price_per_unit
    FROM usage_records AS record
    LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
    WHERE void.request_id IS NULL
    UNION ALL
    SELECT record.customer_id, 180, date_bin('3 hours', record.occurred_at, timestamptz '2000-01-01T00:00:00Z'),
        record.service, 0, 0, 0, 1, record.units_consumed, record.units_consumed * record.price_per_unit
    FROM usage_records AS record
    LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
    WHERE void.request_id IS NULL
) AS both_sides
GROUP BY customer_id, bucket_minutes, bucket, service
HAVING sum(stored_records) <> sum(records) OR sum(stored_units) <> sum(units) OR sum(stored_amount) <> sum(amount)
ORDER BY customer_id, bucket_minutes, bucket, service;

-- verify_credits: every sum of credits that differs from what the records add up to, as stored and as recomputed
SELECT customer_id, bucket_minutes, bucket, service,
    sum(stored_records)::bigint AS stored_records, sum(records)::bigint AS records,
    trim_scale(sum(stored_units))::text AS stored_units, trim_scale(sum(units))::text AS units,
    trim_scale(sum(stored_amount))::text AS stored_amount, trim_scale(sum(amount))::text AS amount
FROM (
    SELECT customer_id, bucket_minutes, bucket, service, records AS stored_records, units AS stored_units,
        amount AS stored_amount, 0 AS records, 0::numeric AS units, 0::numeric AS amount
    FROM credit_rollups
    UNION ALL
    SELECT record.customer_id, minutes,
        date_bin(minutes * interval '1 minute', record.occurred_at, timestamptz '2000-01-01T00:00:00Z'),
        record.service, 0, 0, 0, 1, record.units_consumed, record.units_consumed * record.price_per_unit
    FROM usage_records AS record
    CROSS JOIN (VALUES (15::smallint), (180::smallint)) AS size (minutes)
    LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
    WHERE void.request_id IS NULL AND record.units_consumed < 0
) AS both_sides
GROUP BY customer_id, bucket_minutes, bucket, service
HAVING sum(stored_records) <> sum(records) OR sum(stored_units) <> sum(units) OR sum(stored_amount) <> sum(amount)
ORDER BY customer_id, bucket_minutes, bucket, service;

-- verify_dimensions: every sum by one of the dimensions $1 that differs from what its records, or the credits among them, add
-- up to
SELECT customer_id, dimension, bucket_minutes, bucket, service, value,
    sum(stored_records)::bigint AS stored_records, sum(records)::bigint AS records,
    trim_scale(sum(stored_units))::text AS stored_units, trim_scale(sum(units))::text AS units,
    trim_scale(sum(stored_amount))::text AS stored_amount, trim_scale(sum(amount))::text AS amount
FROM (
    SELECT customer_id, dimension, bucket_minutes, bucket, service, value, records AS stored_records,
        units AS stored_units, amount AS stored_amount, credit_records AS stored_credit_records,
        credit_units AS stored_credit_units, credit_amount AS stored_credit_amount, 0 AS records, 0::numeric AS units,
        0::numeric AS amount, 0 AS credit_records, 0::numeric AS credit_units, 0::numeric AS credit_amount
    FROM dimension_rollups
    UNION ALL
    SELECT record.customer_id, dimension, minutes,
        date_bin(minutes * interval '1 minute', record.occurred_at, timestamptz '2000-01-01T00:00:00Z'),
        record.service, record.dimensions ->> dimension, 0, 0, 0, 0, 0, 0, 1, record.units_consumed,
        record.units_consumed * record.price_per_unit, (record.units_consumed < 0)::integer,
        least(record.units_consumed, 0), least(record.units_consumed, 0) * record.price_per_unit
    FROM usage_records AS record
    CROSS JOIN unnest($1::text[]) AS name (dimension)
    CROSS JOIN (VALUES (15::smallint), (180::smallint), (1440::smallint)) AS size (minutes)
    LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
    WHERE void.request_id IS NULL AND record.dimensions ? dimension
) AS both_sides
WHERE dimension = ANY($1)
GROUP BY customer_id, dimension, bucket_minutes, bucket, service, value
HAVING sum(stored_records) <> sum(records) OR sum(stored_units) <> sum(units) OR sum(stored_amount) <> sum(amount)
    OR sum(stored_credit_records) <> sum(credit_records) OR sum(stored_credit_units) <> sum(credit_units)
    OR sum(stored_credit_amount) <> sum(credit_amount)
ORDER BY customer_id, dimension, bucket_minutes, bucket, service, value;

-- count_rollups: the number of sums
SELECT count(*) FROM usage_rollups;
