-- records_anywhere: the records, of whichever customers, that have the request id $1 or the event id $2, at most $3; either id
-- may be null. A request id is made of the customer id and the event id. Each customer is looked up in the index that begins
-- with it. The subquery is grouped so that it stays one, else all records may be read instead
SELECT record.customer_id, record.request_id
FROM customers AS customer
CROSS JOIN LATERAL (
    SELECT customer_id, request_id
    FROM usage_records
    WHERE usage_records.customer_id = customer.customer_id AND request_id = ANY(ARRAY[
        $1::bytea,
        sha256(convert_to('["event.v1",' || to_json(customer.customer_id)::text || ',' || to_json($2::text)::text || ']', 'UTF8'))
    ])
    GROUP BY customer_id, request_id
) AS record
ORDER BY record.customer_id, record.request_id
LIMIT $3;
