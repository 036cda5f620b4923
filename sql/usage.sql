-- record_usage: record what is new and add it to the sums. Returns the request ids of what was new, or null if the caller
-- expected all of it to be new ($2) and it was. $1 is the first customer; the other arguments are those of record_usage_of.
-- Citus runs a function at a customer's node if it stands alone in a SELECT without FROM, and gets the customer as it is. It
-- cannot hand on text that is cast to an array
SELECT record_usage_of(
    $1, $2, $3, string_to_array($4, ',')::bytea[], $5, $6, $7, $8, string_to_array($9, ',')::timestamptz[], $10, $11, $12, $13
);

-- record_one_usage: record one use if it is new, and add it to the sums. Returns whether it was new
SELECT record_one_usage($1, $2, $3, $4, $5::text::numeric, $6::text::numeric, $7, $8, $9, $10, $11);

-- find_usage: the records with these (customer id, request id) pairs, in any order
SELECT record.customer_id, record.request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, idempotency_key, voided_at, reason, voided_by, voided_for
FROM unnest($1::text[], $2::bytea[]) AS wanted (customer_id, request_id)
JOIN usage_records AS record USING (customer_id, request_id)
LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
WHERE record.customer_id = ANY($1);

-- find_many_usage: as find_usage, for very many pairs: with its condition on the customers, which only Citus needs, all
-- records of a customer may be read for a thousand of them
SELECT record.customer_id, record.request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, idempotency_key, voided_at, reason, voided_by, voided_for
FROM unnest($1::text[], $2::bytea[]) AS wanted (customer_id, request_id)
JOIN usage_records AS record USING (customer_id, request_id)
LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id;

-- list_usage: one page of a customer's records by (occurred_at, request_id), after the position $2, $3 and before $4,
-- of the service $5 and with the dimensions $6, unless these are null. IS NOT NULL makes the planner expect that the filters let
-- most records pass. Else it may expect a few rows in all, read all records of the customer, and sort them
SELECT customer_id, request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, voided_at
FROM usage_records
LEFT JOIN usage_voids USING (customer_id, request_id)
WHERE customer_id = $1
    AND (occurred_at, request_id) > ($2::timestamptz, $3::bytea)
    AND occurred_at < $4::timestamptz
    AND CASE WHEN $5::text IS NULL OR service = $5 THEN true END IS NOT NULL
    AND CASE WHEN $6::jsonb IS NULL OR dimensions @> $6 THEN true END IS NOT NULL
ORDER BY occurred_at, request_id
LIMIT $7;

-- void_usage: void a record; no row is returned if it was voided before
INSERT INTO usage_voids (customer_id, request_id, reason, voided_by, voided_for, voided_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (customer_id, request_id) DO NOTHING
RETURNING request_id;

-- count_usage: how many records there are
SELECT count(*) FROM usage_records;

-- wrong_request_ids: the records whose request id is not the hash of what it stands for, and what it should be. The rule is
-- that of billing_client/contract/identity.py
SELECT customer_id, encode(request_id, 'hex') AS request_id, encode(expected, 'hex') AS expected
FROM (
    SELECT customer_id, request_id, sha256(convert_to(
        CASE WHEN event_id IS NOT NULL THEN '["event.v1",' || to_json(customer_id)::text || ',' || to_json(event_id)::text
        ELSE
            CASE WHEN dimensions IS NULL THEN '["usage.v1",' ELSE '["usage.v2",' END
            || to_json(customer_id)::text || ',' || to_json(service)::text
            || ',"' || trim_scale(units_consumed)::text || '","' || trim_scale(price_per_unit)::text || '"'
            || coalesce((
                SELECT string_agg(',' || to_json(key)::text || ',' || to_json(value)::text, '' ORDER BY key COLLATE "C")
                FROM jsonb_each_text(dimensions)
            ), '')
        END || ']', 'UTF8'
    )) AS expected
    FROM usage_records
) AS record
WHERE request_id <> expected
ORDER BY customer_id, request_id;
