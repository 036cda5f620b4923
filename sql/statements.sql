-- recorded_after: records from $2 to $3 that were recorded after $4, without those in $5, latest first
SELECT customer_id, request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, voided_at
FROM usage_records
LEFT JOIN usage_voids USING (customer_id, request_id)
WHERE customer_id = $1 AND occurred_at >= $2::timestamptz AND occurred_at < $3::timestamptz
    AND recorded_at > $4::timestamptz
    AND NOT EXISTS (SELECT FROM unnest($5::bytea[]) AS seen (id) WHERE seen.id = request_id)
ORDER BY recorded_at DESC, request_id DESC
LIMIT $6;

-- voided_after: records from $2 to $3 that were voided after $4, without those in $5, latest first; every row has the
-- number and the amount of all of them
SELECT customer_id, request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, voided_at, reason, voided_by, voided_for,
    count(*) OVER () AS total_records, trim_scale(sum(units_consumed * price_per_unit) OVER ())::text AS total_amount
FROM usage_voids
JOIN usage_records USING (customer_id, request_id)
WHERE customer_id = $1 AND occurred_at >= $2::timestamptz AND occurred_at < $3::timestamptz
    AND voided_at > $4::timestamptz
    AND NOT EXISTS (SELECT FROM unnest($5::bytea[]) AS seen (id) WHERE seen.id = request_id)
ORDER BY voided_at DESC, request_id DESC
LIMIT $6;

-- find_statement: read a statement as an earlier version issued it
SELECT issued_at, lines::text AS lines, settled_at, recently_recorded, recently_voided
FROM statements
WHERE customer_id = $1 AND month = $2 AND timezone = $3 AND digest = $4;

-- recorded_among: at most $3 of the records with these request ids ($2), latest first
SELECT customer_id, request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, voided_at
FROM usage_records
LEFT JOIN usage_voids USING (customer_id, request_id)
WHERE customer_id = $1 AND request_id = ANY($2::bytea[])
ORDER BY recorded_at DESC, request_id DESC
LIMIT $3;

-- voided_among: at most $3 of the voided records with these request ids ($2), latest first
SELECT customer_id, request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, voided_at, reason, voided_by, voided_for
FROM usage_voids
JOIN usage_records USING (customer_id, request_id)
WHERE customer_id = $1 AND request_id = ANY($2::bytea[])
ORDER BY voided_at DESC, request_id DESC
LIMIT $3;

-- totals_of_month: what the usage of each of the customers $1 adds up to in a month: the rollups of 3 hours from $2 to $3, and
-- those of 15 minutes at both its edges, from $4 to $2 and from $3 to $5
SELECT customer_id, sum(records)::bigint AS records, trim_scale(sum(amount))::text AS amount
FROM (
    SELECT customer_id, sum(records) AS records, sum(amount) AS amount
    FROM usage_rollups
    WHERE customer_id = ANY($1::text[]) AND bucket_minutes = 180
        AND bucket >= $2::timestamptz AND bucket < $3::timestamptz AND records > 0
    GROUP BY customer_id
    UNION ALL
    SELECT customer_id, sum(records), sum(amount)
    FROM usage_rollups
    WHERE customer_id = ANY($1::text[]) AND bucket_minutes = 15
        AND bucket >= $4::timestamptz AND bucket < $2::timestamptz AND records > 0
    GROUP BY customer_id
    UNION ALL
    SELECT customer_id, sum(records), sum(amount)
    FROM usage_rollups
    WHERE customer_id = ANY($1::text[]) AND bucket_minutes = 15
        AND bucket >= $3::timestamptz AND bucket < $5::timestamptz AND records > 0
    GROUP BY customer_id
) AS part
GROUP BY customer_id;
