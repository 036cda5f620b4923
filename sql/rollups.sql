-- take_from_rollups: takes a voided record out of one sum
UPDATE usage_rollups
SET records = records - 1, units = units - $5::text::numeric, amount = amount - $6::text::numeric
WHERE customer_id = $1 AND grain_minutes = $2 AND bucket = $3 AND service = $4;

-- summarize: what customers' usage from $2 to $3 adds up to, by service ($6) and by hour, day or month ($4) of a time
-- zone ($5). It takes whole days where it can, quarters of an hour where a day is cut by an end of the time asked for or
-- of a group, and records where a quarter is cut; all in one statement, so in one snapshot. The subqueries group so that
-- the planner looks each cut day and quarter up by key, whatever number of them it expects.
WITH days AS (
    SELECT customer_id, bucket, service, records, units, amount,
        bucket >= $2::timestamptz AND bucket + interval '24 hours' <= $3::timestamptz
            AND ($4::text IS NULL OR date_trunc($4, bucket, $5::text)
                = date_trunc($4, bucket + interval '24 hours' - interval '1 microsecond', $5)) AS whole
    FROM usage_rollups
    WHERE customer_id = ANY($1::text[]) AND grain_minutes = 1440
        AND bucket > $2 - interval '24 hours' AND bucket < $3
), quarters AS (
    SELECT quarter.customer_id, quarter.bucket, service, records, units, amount,
        quarter.bucket >= $2 AND quarter.bucket + interval '15 minutes' <= $3
            AND ($4 IS NULL OR date_trunc($4, quarter.bucket, $5)
                = date_trunc($4, quarter.bucket + interval '15 minutes' - interval '1 microsecond', $5)) AS whole
    FROM (SELECT DISTINCT customer_id, bucket FROM days WHERE NOT whole) AS cut
    CROSS JOIN LATERAL (
        SELECT customer_id, bucket, service, sum(records) AS records, sum(units) AS units, sum(amount) AS amount
        FROM usage_rollups
        WHERE customer_id = cut.customer_id AND grain_minutes = 15
            AND bucket >= cut.bucket AND bucket < cut.bucket + interval '24 hours'
            AND bucket > $2 - interval '15 minutes' AND bucket < $3
        GROUP BY customer_id, bucket, service
    ) AS quarter
), leaves AS (
    SELECT leaf.customer_id, leaf.period, leaf.service, leaf.records, leaf.units, leaf.amount
    FROM (SELECT DISTINCT customer_id, bucket FROM quarters WHERE NOT whole) AS cut
    CROSS JOIN LATERAL (
        SELECT record.customer_id, date_trunc($4, record.occurred_at, $5) AS period, record.service,
            count(*) AS records, sum(units_consumed) AS units, sum(units_consumed * price_per_unit) AS amount
        FROM usage_records AS record
        LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
        WHERE record.customer_id = cut.customer_id AND void.request_id IS NULL
            AND record.occurred_at >= cut.bucket AND record.occurred_at < cut.bucket + interval '15 minutes'
            AND record.occurred_at >= $2 AND record.occurred_at < $3
        GROUP BY record.customer_id, period, record.service
    ) AS leaf
), parts AS (
    SELECT customer_id, date_trunc($4, bucket, $5) AS period, service, records, units, amount FROM days WHERE whole
    UNION ALL
    SELECT customer_id, date_trunc($4, bucket, $5), service, records, units, amount FROM quarters WHERE whole
    UNION ALL
    SELECT customer_id, period, service, records, units, amount FROM leaves
), keyed AS (
    SELECT customer_id, CASE WHEN $6::boolean THEN service END AS service, period, records, units, amount
    FROM parts
)
SELECT customer_id, service, period, period AT TIME ZONE $5 AS local_period, sum(records)::bigint AS records,
    trim_scale(sum(units))::text AS units, trim_scale(sum(amount))::text AS amount
FROM keyed
GROUP BY customer_id, service, period
HAVING sum(records) > 0
ORDER BY customer_id, period, service
LIMIT $7;

-- verify_rollups: every rollup that is not what its records add up to; the sums come as stored and as recomputed
SELECT customer_id, grain_minutes, bucket, service,
    sum(stored_records)::bigint AS stored_records, sum(records)::bigint AS records,
    trim_scale(sum(stored_units))::text AS stored_units, trim_scale(sum(units))::text AS units,
    trim_scale(sum(stored_amount))::text AS stored_amount, trim_scale(sum(amount))::text AS amount
FROM (
    SELECT customer_id, grain_minutes, bucket, service, records AS stored_records, units AS stored_units,
        amount AS stored_amount, 0 AS records, 0::numeric AS units, 0::numeric AS amount
    FROM usage_rollups
    UNION ALL
    SELECT record.customer_id, 15, date_bin('15 minutes', record.occurred_at, timestamptz '2000-01-01T00:00:00Z'),
        record.service, 0, 0, 0, 1, record.units_consumed, record.units_consumed * record.price_per_unit
    FROM usage_records AS record
    LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
    WHERE void.request_id IS NULL
    UNION ALL
    SELECT record.customer_id, 1440, date_bin('24 hours', record.occurred_at, timestamptz '2000-01-01T00:00:00Z'),
        record.service, 0, 0, 0, 1, record.units_consumed, record.units_consumed * record.price_per_unit
    FROM usage_records AS record
    LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
    WHERE void.request_id IS NULL
) AS both_sides
GROUP BY customer_id, grain_minutes, bucket, service
HAVING sum(stored_records) <> sum(records) OR sum(stored_units) <> sum(units) OR sum(stored_amount) <> sum(amount)
ORDER BY customer_id, grain_minutes, bucket, service;

-- count_rollups: how many there are
SELECT count(*) FROM usage_rollups;
