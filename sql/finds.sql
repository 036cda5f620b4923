-- owner_of_record: the customer that has the record with the request id $1
SELECT customer_id
FROM customers
WHERE EXISTS (
    SELECT FROM usage_records
    WHERE usage_records.customer_id = customers.customer_id AND request_id = $1
)
LIMIT 1;

-- customer_ids: a page of the ids of all customers, after the id $1
SELECT customer_id FROM customers WHERE customer_id > $1 ORDER BY customer_id LIMIT $2;

-- records_among: which of these (customer id, request id) pairs are records
SELECT customer_id, request_id
FROM unnest($1::text[], $2::bytea[]) AS wanted (customer_id, request_id)
JOIN usage_records USING (customer_id, request_id)
ORDER BY customer_id;
