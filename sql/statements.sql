-- statement_lines: totals of a customer's records from $2 to $3 by service and price, without voided ones. The late_
-- columns are the part that was recorded after $3
SELECT service, trim_scale(price_per_unit)::text AS price_per_unit, count(*) AS records,
    trim_scale(sum(units_consumed))::text AS units,
    trim_scale(sum(units_consumed) * price_per_unit)::text AS amount,
    count(*) FILTER (WHERE recorded_at >= $3) AS late_records,
    trim_scale(sum(units_consumed) FILTER (WHERE recorded_at >= $3))::text AS late_units,
    trim_scale(sum(units_consumed) FILTER (WHERE recorded_at >= $3) * price_per_unit)::text AS late_amount
FROM usage_records
LEFT JOIN usage_voids USING (customer_id, request_id)
WHERE customer_id = $1 AND occurred_at >= $2::timestamptz AND occurred_at < $3::timestamptz AND voided_at IS NULL
GROUP BY service, price_per_unit
ORDER BY service, usage_records.price_per_unit;

-- statement_digest: the SHA-256 of the request ids, in ascending order, of the records that statement_lines counts
SELECT sha256(coalesce(string_agg(request_id, ''::bytea ORDER BY request_id), ''::bytea))
FROM usage_records
LEFT JOIN usage_voids USING (customer_id, request_id)
WHERE customer_id = $1 AND occurred_at >= $2::timestamptz AND occurred_at < $3::timestamptz AND voided_at IS NULL;

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

-- find_statement: read a statement as it was issued
SELECT issued_at, lines::text AS lines, settled_at, recently_recorded, recently_voided
FROM statements
WHERE customer_id = $1 AND month = $2 AND timezone = $3 AND digest = $4;

-- note_statement: keep a statement as issued; does nothing if it was issued before
INSERT INTO statements (
    customer_id, month, timezone, digest, issued_at, lines, settled_at, recently_recorded, recently_voided
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (customer_id, month, timezone, digest) DO NOTHING;
