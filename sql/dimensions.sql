-- is_filled: whether the sums of a dimension hold all records
SELECT EXISTS (SELECT FROM prepared_dimensions WHERE dimension = $1 AND filled_at IS NOT NULL);

-- read_prepared: a page of at most $3 totals of a customer by period, if $2 by service, and if $15 by the value of the
-- dimension $13, or of the records with its value $14, after a period, service and value ($4, $5, $16). The pieces are those of
-- read_groups; $17 to $20 are the pieces of what is not told apart by the dimension. The records without it are the empty value:
-- all usage, less what has the dimension. Nothing unless the sums hold all records, so that it need not be asked beforehand
WITH valued AS MATERIALIZED (
    SELECT period, service, value, records, units, amount, credit_records, credit_units, credit_amount
    FROM unnest($6::timestamptz[], $7::smallint[], $8::timestamptz[], $9::timestamptz[])
        AS piece (period, minutes, first, last)
    CROSS JOIN LATERAL (
        SELECT service, value, sum(records) AS records, sum(units) AS units, sum(amount) AS amount,
            coalesce(sum(credit_records) FILTER (WHERE credit_records > 0), 0) AS credit_records,
            coalesce(sum(credit_units) FILTER (WHERE credit_records > 0), 0) AS credit_units,
            coalesce(sum(credit_amount) FILTER (WHERE credit_records > 0), 0) AS credit_amount
        FROM dimension_rollups
        WHERE customer_id = $1 AND dimension = $13 AND bucket_minutes = minutes AND bucket >= first AND bucket < last
            AND records > 0 AND ($14::text IS NULL OR value = $14)
        GROUP BY service, value
    ) AS rollup
    WHERE (SELECT EXISTS (SELECT FROM prepared_dimensions WHERE dimension = $13 AND filled_at IS NOT NULL))
),
without AS (
    SELECT period, service, sum(records) AS records, sum(units) AS units, sum(amount) AS amount,
        sum(credit_records) AS credit_records, sum(credit_units) AS credit_units, sum(credit_amount) AS credit_amount
    FROM (
        SELECT period, service, -records AS records, -units AS units, -amount AS amount, -credit_records AS credit_records,
            -credit_units AS credit_units, -credit_amount AS credit_amount
        FROM valued
        WHERE $15::boolean AND $14 IS NULL
        UNION ALL
        SELECT period, service, records, units, amount, 0, 0, 0
        FROM unnest($17::timestamptz[], $18::smallint[], $19::timestamptz[], $20::timestamptz[])
            AS piece (period, minutes, first, last)
        CROSS JOIN LATERAL (
            SELECT service, sum(records) AS records, sum(units) AS units, sum(amount) AS amount
            FROM usage_rollups
            WHERE customer_id = $1 AND bucket_minutes = minutes AND bucket >= first AND bucket < last AND records > 0
            GROUP BY service
        ) AS rollup
        WHERE (SELECT EXISTS (SELECT FROM prepared_dimensions WHERE dimension = $13 AND filled_at IS NOT NULL))
        UNION ALL
        SELECT period, service, 0, 0, 0, records, units, amount
        FROM unnest($17, $18, $19, $20) AS piece (period, minutes, first, last)
        CROSS JOIN LATERAL (
            SELECT service, sum(records) AS records, sum(units) AS units, sum(amount) AS amount
            FROM credit_rollups
            WHERE customer_id = $1 AND bucket_minutes = minutes AND bucket >= first AND bucket < last AND records > 0
            GROUP BY service
        ) AS credit
        WHERE (SELECT customer_id FROM credit_rollups WHERE customer_id = $1 ORDER BY bucket_minutes, bucket LIMIT 1) IS NOT NULL
    ) AS part
    GROUP BY period, service
    HAVING sum(records) > 0
)
SELECT period, CASE WHEN $2::boolean THEN service ELSE '' END AS service, value, '' AS other_value,
    sum(records)::bigint AS records, trim_scale(sum(units))::text AS units, trim_scale(sum(amount))::text AS amount,
    CASE WHEN min(service) = max(service) THEN min(service) END AS only_service,
    sum(credit_records)::bigint AS credit_records, trim_scale(sum(credit_units))::text AS credit_units,
    trim_scale(sum(credit_amount))::text AS credit_amount,
    CASE WHEN min(service) FILTER (WHERE credit_records > 0) = max(service) FILTER (WHERE credit_records > 0)
        THEN min(service) FILTER (WHERE credit_records > 0) END AS only_credit_service
FROM (
    SELECT period, service, CASE WHEN $15 THEN value ELSE '' END AS value, records, units, amount, credit_records, credit_units,
        credit_amount
    FROM valued
    UNION ALL
    SELECT period, service, '', records, units, amount, credit_records, credit_units, credit_amount
    FROM without
    UNION ALL
    SELECT period, service, value, records, units, amount, credit_records, credit_units, credit_amount
    FROM unnest($10::timestamptz[], $11::timestamptz[], $12::timestamptz[]) AS piece (period, first, last)
    CROSS JOIN LATERAL (
        SELECT record.service, CASE WHEN $15 THEN coalesce(dimensions ->> $13, '') ELSE '' END AS value, count(*) AS records,
            sum(units_consumed) AS units, sum(units_consumed * price_per_unit) AS amount,
            count(*) FILTER (WHERE units_consumed < 0) AS credit_records,
            coalesce(sum(units_consumed) FILTER (WHERE units_consumed < 0), 0) AS credit_units,
            coalesce(sum(units_consumed * price_per_unit) FILTER (WHERE units_consumed < 0), 0) AS credit_amount
        FROM usage_records AS record
        LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
        WHERE record.customer_id = $1 AND occurred_at >= first AND occurred_at < last AND void.request_id IS NULL
            AND ($14 IS NULL OR dimensions ->> $13 = $14)
        GROUP BY 1, 2
    ) AS record
    WHERE (SELECT EXISTS (SELECT FROM prepared_dimensions WHERE dimension = $13 AND filled_at IS NOT NULL))
) AS part
WHERE (period, CASE WHEN $2 THEN service ELSE '' END, value) > ($4::timestamptz, $5::text, $16::text)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
LIMIT $3;

-- read_records: a page of at most $3 totals of the records of a customer with the dimensions $11 by period, if $2 by service,
-- and by the values of the dimensions $9 and $10 unless these are null, after a period, service and values ($4, $5, $12, $13).
-- $6 to $8 are the periods. Records without a dimension have the empty value
SELECT period, service, value, other_value, sum(records)::bigint AS records, trim_scale(sum(units))::text AS units,
    trim_scale(sum(amount))::text AS amount,
    CASE WHEN min(first_service) = max(last_service) THEN min(first_service) END AS only_service,
    sum(credit_records)::bigint AS credit_records, trim_scale(sum(credit_units))::text AS credit_units,
    trim_scale(sum(credit_amount))::text AS credit_amount,
    CASE WHEN min(first_credit) = max(last_credit) THEN min(first_credit) END AS only_credit_service
FROM unnest($6::timestamptz[], $7::timestamptz[], $8::timestamptz[]) AS piece (period, first, last)
CROSS JOIN LATERAL (
    SELECT CASE WHEN $2::boolean THEN record.service ELSE '' END AS service,
        coalesce(dimensions ->> $9::text, '') AS value, coalesce(dimensions ->> $10::text, '') AS other_value,
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
        AND ($11::jsonb IS NULL OR dimensions @> $11)
    GROUP BY 1, 2, 3
) AS record
WHERE (period, service, value, other_value) > ($4::timestamptz, $5::text, $12::text, $13::text)
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
LIMIT $3;

-- list_prepared: the dimensions that are summed up with the records
SELECT dimension, added_at, filled_to, filled_at FROM prepared_dimensions ORDER BY dimension;

-- add_prepared: sum up a dimension from now on; nothing if it is already
INSERT INTO prepared_dimensions (dimension, added_at) VALUES ($1, clock_timestamp()) ON CONFLICT (dimension) DO NOTHING;

-- remove_prepared: stop summing up a dimension; how many were is told by the status
DELETE FROM prepared_dimensions WHERE dimension = $1;

-- filled_up_to: note up to which customer the records of before are summed up
UPDATE prepared_dimensions SET filled_to = $2 WHERE dimension = $1;

-- filled: note that all records of before are summed up
UPDATE prepared_dimensions SET filled_at = now() WHERE dimension = $1;

-- count_customers: how many customers have an id up to $1, and how many there are
SELECT count(*) FILTER (WHERE customer_id <= $1) AS done, count(*) AS customers FROM customers;

-- keep_out: wait for all who record usage with dimensions where the customer $1 is, and let no other one begin until the end
-- of the transaction. The row is read so that a database that is distributed takes the lock on the customer's node
SELECT pg_advisory_xact_lock(hashtext('billing_service.prepared_dimensions')) FROM customers WHERE customer_id = $1;

-- count_records: how many records a customer has in each quarter of an hour after $2, in order, of at most $3 of them
SELECT bucket, sum(records)::bigint AS records
FROM usage_rollups
WHERE customer_id = $1 AND bucket_minutes = 15 AND bucket > $2::timestamptz AND records > 0
GROUP BY bucket
ORDER BY bucket
LIMIT $3;

-- forget_sums: delete the sums of a customer by a dimension
DELETE FROM dimension_rollups WHERE customer_id = $1 AND dimension = $2;

-- fill_quarters: sum up a customer's records of a dimension from $3 to $4, by quarter of an hour
INSERT INTO dimension_rollups (
    customer_id, dimension, bucket_minutes, bucket, service, value,
    records, units, amount, credit_records, credit_units, credit_amount
)
SELECT record.customer_id, $2::text, 15, date_bin('15 minutes', occurred_at, timestamptz '2000-01-01T00:00:00Z') AS bucket,
    record.service, dimensions ->> $2 AS value, count(*), sum(units_consumed), sum(units_consumed * price_per_unit),
    count(*) FILTER (WHERE units_consumed < 0), coalesce(sum(units_consumed) FILTER (WHERE units_consumed < 0), 0),
    coalesce(sum(units_consumed * price_per_unit) FILTER (WHERE units_consumed < 0), 0)
FROM usage_records AS record
LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
WHERE record.customer_id = $1 AND occurred_at >= $3::timestamptz AND occurred_at < $4::timestamptz
    AND dimensions ? $2 AND void.request_id IS NULL
GROUP BY record.customer_id, bucket, record.service, value
ON CONFLICT (customer_id, dimension, bucket_minutes, bucket, service, value) DO UPDATE SET
    records = excluded.records, units = excluded.units, amount = excluded.amount,
    credit_records = excluded.credit_records, credit_units = excluded.credit_units, credit_amount = excluded.credit_amount;

-- read_quarters: what a customer's quarters of an hour from $3 to $4 add up to by buckets of $5 minutes, whose length is $6
SELECT customer_id, dimension, $5::smallint AS bucket_minutes,
    date_bin($6::interval, bucket, timestamptz '2000-01-01T00:00:00Z') AS bucket, service, value,
    sum(records)::bigint AS records, sum(units) AS units, sum(amount) AS amount, sum(credit_records)::bigint AS credit_records,
    sum(credit_units) AS credit_units, sum(credit_amount) AS credit_amount
FROM dimension_rollups
WHERE customer_id = $1 AND dimension = $2 AND bucket_minutes = 15 AND bucket >= $3::timestamptz AND bucket < $4::timestamptz
GROUP BY 1, 2, 3, 4, 5, 6;

-- put_sum: write one sum, whatever it was
INSERT INTO dimension_rollups (
    customer_id, dimension, bucket_minutes, bucket, service, value,
    records, units, amount, credit_records, credit_units, credit_amount
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (customer_id, dimension, bucket_minutes, bucket, service, value) DO UPDATE SET
    records = excluded.records, units = excluded.units, amount = excluded.amount,
    credit_records = excluded.credit_records, credit_units = excluded.credit_units, credit_amount = excluded.credit_amount;
