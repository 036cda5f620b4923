-- record_among: the record with the request id $2, of one of the customers $1
SELECT record.customer_id, record.request_id, event_id, service, units_consumed::text AS units_consumed,
    price_per_unit::text AS price_per_unit, trim_scale(units_consumed * price_per_unit)::text AS amount,
    occurred_at, recorded_at, recorded_by, dimensions, voided_at
FROM usage_records AS record
LEFT JOIN usage_voids AS void ON void.customer_id = record.customer_id AND void.request_id = record.request_id
WHERE record.customer_id = ANY($1::text[]) AND record.request_id = $2;

-- customer_ids: a page of the ids of all customers, after the id $1
SELECT customer_id FROM customers WHERE customer_id > $1 ORDER BY customer_id LIMIT $2;

-- records_among: which of these (customer id, request id) pairs are records
SELECT customer_id, request_id
FROM unnest($1::text[], $2::bytea[]) AS wanted (customer_id, request_id)
JOIN usage_records USING (customer_id, request_id)
ORDER BY customer_id;
