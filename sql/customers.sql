-- insert_customer: adds a customer, or nothing where the id is taken
INSERT INTO customers (customer_id, name, created_at, updated_at, idempotency_key, created_by)
VALUES ($1, $2, $3, $3, $4, $5)
ON CONFLICT (customer_id) DO NOTHING
RETURNING customer_id, name, created_at, updated_at, idempotency_key, created_by;

-- get_customer: one customer
SELECT customer_id, name, created_at, updated_at, idempotency_key, created_by
FROM customers
WHERE customer_id = $1;

-- rename_customer: changes a name; updated_at moves only where the name does
UPDATE customers
SET name = $2, updated_at = CASE WHEN name = $2 THEN updated_at ELSE $3 END
WHERE customer_id = $1
RETURNING customer_id, name, created_at, updated_at, idempotency_key, created_by;

-- list_customers: a page of customers after an id, by id
SELECT customer_id, name, created_at, updated_at, idempotency_key, created_by
FROM customers
WHERE customer_id > $1
ORDER BY customer_id
LIMIT $2;

-- known_customers: which of these customers exist
SELECT customer_id FROM customers WHERE customer_id = ANY($1::text[]);
