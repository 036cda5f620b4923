-- insert_customer: add a customer; no row is returned if the id is taken
INSERT INTO customers (customer_id, name, created_at, updated_at, idempotency_key, created_by)
VALUES ($1, $2, $3, $3, $4, $5)
ON CONFLICT (customer_id) DO NOTHING
RETURNING customer_id, name, created_at, updated_at, idempotency_key, created_by;

-- get_customer: read one customer
SELECT customer_id, name, created_at, updated_at, idempotency_key, created_by
FROM customers
WHERE customer_id = $1;

-- rename_customer: change the name; updated_at changes only if the name does
UPDATE customers
SET name = $2, updated_at = CASE WHEN name = $2 THEN updated_at ELSE $3 END
WHERE customer_id = $1
RETURNING customer_id, name, created_at, updated_at, idempotency_key, created_by;

-- list_customers: one page of customers, by id, after the id $1
SELECT customer_id, name, created_at, updated_at, idempotency_key, created_by
FROM customers
WHERE customer_id > $1
ORDER BY customer_id
LIMIT $2;

-- known_customers: which of these customers exist
SELECT customer_id FROM customers WHERE customer_id = ANY($1::text[]);
