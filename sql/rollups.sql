-- take_from_rollups: subtract a voided record from one sum
UPDATE usage_rollups
SET records = records - 1, units = units - $5::text::numeric, amount = amount - $6::text::numeric
WHERE customer_id = $1 AND bucket_minutes = $2 AND bucket = $3 AND service = $4;

-- used_buckets: the UTC intervals of length $3 between $4 and $5 in which a customer has usage, found in the rollups of $2
-- minutes
SELECT DISTINCT date_bin($3::interval, bucket, timestamptz '2000-01-01T00:00:00Z') AS start
FROM usage_rollups
WHERE customer_id = $1 AND bucket_minutes = $2 AND bucket >= $4::timestamptz AND bucket < $5::timestamptz AND records > 0
ORDER BY start
LIMIT $6;

-- read_groups: a page of at most $3 totals of a customer by period and, if $2, by service, after a period and service ($4, $5).
-- The pieces of a period are rollups of a time ($6 to $9) and single records ($10 to $12), each with the start of its period
-- Each piece is looked up in an index and added up by itself, which is faster than adding all rows to their group.
SELECT period, service, sum(records)::bigint AS records, trim_scale(sum(units))::text AS units,
    trim_scale(sum(amount))::text AS amount
FROM (
    SELECT period, service, records, units, amount
    FROM unnest($6::timestamptz[], $7::smallint[], $8::timestamptz[], $9::timestamptz[])
        AS piece (period, minutes, first, last)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN $2::boolean THEN service ELSE '' END AS service,
            sum(records) AS records, sum(units) AS units, sum(amount) AS amount
        FROM usage_rollups
        WHERE customer_id = $1 AND bucket_minutes = minutes AND bucket >= first AND bucket < last AND records > 0
        GROUP BY 1
    ) AS rollup
    UNION ALL
    SELECT period, service, records, units, amount
    FROM unnest($10::timestamptz[], $11::timestamptz[], $12::timestamptz[]) AS piece (period, first, last)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN $2 THEN record.service ELSE '' END AS service,
            count(*) AS records, sum(units_consumed) AS units, sum(units_consumed * price_per_unit) AS amount
        FROM usage_records AS record
        LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
        WHERE record.customer_id = $1 AND occurred_at >= first AND occurred_at < last AND void.request_id IS NULL
        GROUP BY 1
    ) AS record
) AS part
WHERE (period, service) > ($4::timestamptz, $5::text)
GROUP BY period, service
ORDER BY period, service
LIMIT $3;

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

-- count_rollups: the number of sums
SELECT count(*) FROM usage_rollups;
