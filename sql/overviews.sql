-- totals_by_day: what the usage of all customers, or of customer $4, adds up to by day and service. Day n begins at the nth
-- of the times $2; the last time ends the last day. All lie on boundaries of the rollups of $1 minutes. The $3 services
-- with the highest amounts are told apart; the others are one, without a name.
WITH daily AS (
    SELECT width_bucket(bucket, $2::timestamptz[]) AS day, service, sum(records) AS records, sum(amount) AS amount
    FROM usage_rollups
    WHERE bucket_minutes = $1 AND bucket >= ($2::timestamptz[])[1]
        AND bucket < ($2::timestamptz[])[cardinality($2::timestamptz[])]
        AND records > 0 AND ($4::text IS NULL OR customer_id = $4)
    GROUP BY 1, 2
), ranked AS (
    SELECT service, row_number() OVER (ORDER BY sum(abs(amount)) DESC, service) AS rank
    FROM daily
    GROUP BY service
)
SELECT day, CASE WHEN rank <= $3 THEN service END AS service, sum(records)::bigint AS records,
    trim_scale(sum(amount))::text AS amount
FROM daily
JOIN ranked USING (service)
GROUP BY 1, 2
ORDER BY 1, 2;

-- sums_by_day: as totals_by_day, of all services together, and of all customers or of customer $3
SELECT width_bucket(bucket, $2::timestamptz[]) AS day, NULL::text AS service, sum(records)::bigint AS records,
    trim_scale(sum(amount))::text AS amount
FROM usage_rollups
WHERE bucket_minutes = $1 AND bucket >= ($2::timestamptz[])[1]
    AND bucket < ($2::timestamptz[])[cardinality($2::timestamptz[])]
    AND records > 0 AND ($3::text IS NULL OR customer_id = $3)
GROUP BY 1
ORDER BY 1;

-- most_changed: the $5 customers whose amounts from $3 to $4 differ most from those from $1 to $2
SELECT customer_id, trim_scale(before)::text AS before, trim_scale(after)::text AS after
FROM (
    SELECT customer_id, coalesce(sum(amount) FILTER (WHERE bucket < $2::timestamptz), 0) AS before,
        coalesce(sum(amount) FILTER (WHERE bucket >= $3::timestamptz), 0) AS after
    FROM usage_rollups
    WHERE bucket_minutes = $6 AND bucket >= $1::timestamptz AND bucket < $4::timestamptz AND records > 0
    GROUP BY customer_id
) AS customer
WHERE before <> after
ORDER BY abs(after - before) DESC, customer_id
LIMIT $5;

-- records_from: how many records of all customers, or of customer $3, occurred in the quarters of an hour from $1 to $2
SELECT coalesce(sum(records), 0)::bigint
FROM usage_rollups
WHERE bucket_minutes = 15 AND bucket >= $1::timestamptz AND bucket < $2::timestamptz
    AND ($3::text IS NULL OR customer_id = $3);

-- credited_from: how many credits of all customers, or of customer $4, are in the rollups of $1 minutes from $2 to $3, and
-- what they come to
SELECT coalesce(sum(records), 0)::bigint AS records, coalesce(trim_scale(sum(amount)), 0)::text AS amount
FROM credit_rollups
WHERE bucket_minutes = $1 AND bucket >= $2::timestamptz AND bucket < $3::timestamptz
    AND ($4::text IS NULL OR customer_id = $4);

-- to_issue: how many customers, or whether customer $5, have usage in the rollups of $1 minutes from $2 to $3 and no
-- statement of the month $4
SELECT count(*)
FROM (
    SELECT customer_id
    FROM usage_rollups
    WHERE bucket_minutes = $1 AND bucket >= $2::timestamptz AND bucket < $3::timestamptz AND records > 0
        AND ($5::text IS NULL OR customer_id = $5)
    GROUP BY customer_id
) AS used
LEFT JOIN (
    SELECT DISTINCT customer_id FROM issued_statements WHERE month = $4
) AS issued USING (customer_id)
WHERE issued.customer_id IS NULL;

-- voided_from: how many records of all customers, or of customer $3, were voided from $1 to $2, and what they come to
SELECT count(*) AS records, coalesce(trim_scale(sum(units_consumed * price_per_unit)), 0)::text AS amount
FROM usage_voids AS void
JOIN usage_records AS record ON record.customer_id = void.customer_id AND record.request_id = void.request_id
WHERE voided_at >= $1::timestamptz AND voided_at < $2::timestamptz AND ($3::text IS NULL OR void.customer_id = $3);

-- totals_of_customers: what the usage of the customers $2 adds up to by day. The days are as in totals_by_day
SELECT customer_id, width_bucket(bucket, $3::timestamptz[]) AS day, sum(records)::bigint AS records,
    trim_scale(sum(amount))::text AS amount
FROM usage_rollups
WHERE customer_id = ANY($2::text[]) AND bucket_minutes = $1 AND bucket >= ($3::timestamptz[])[1]
    AND bucket < ($3::timestamptz[])[cardinality($3::timestamptz[])] AND records > 0
GROUP BY 1, 2
ORDER BY 1, 2;

-- search_customers: one page of customers, by id, after the id $1, whose id or name holds the text $2 in any case
SELECT customer_id, name
FROM customers
WHERE customer_id > $1
    AND ($2 = '' OR strpos(lower(customer_id), lower($2)) > 0 OR strpos(lower(name), lower($2)) > 0)
ORDER BY customer_id
LIMIT $3;

-- names_of_customers: the names of these customers
SELECT customer_id, name FROM customers WHERE customer_id = ANY($1::text[]);
