-- latest_issued: the statement of a month that was issued last
SELECT number, month, timezone, digest, issued_at, issued_by, records, trim_scale(amount)::text AS amount,
    rounded::text AS rounded, document, buckets, runs,
    substring(encode(substring(document FROM greatest(1, octet_length(document) - 399)), 'escape') FROM '"signature":"([^"]+)"}$')
        AS signature
FROM issued_statements
WHERE customer_id = $1 AND month = $2 AND timezone = $3
ORDER BY number DESC
LIMIT 1;

-- find_issued: the statement with a number ($2), or the last one with a digest ($3)
SELECT number, month, timezone, digest, issued_at, issued_by, records, trim_scale(amount)::text AS amount,
    rounded::text AS rounded, document, buckets, runs,
    substring(encode(substring(document FROM greatest(1, octet_length(document) - 399)), 'escape') FROM '"signature":"([^"]+)"}$')
        AS signature
FROM issued_statements
WHERE customer_id = $1 AND (number = $2 OR digest = $3)
ORDER BY number DESC
LIMIT 1;

-- list_issued: at most $3 statements of a customer with numbers above $2
SELECT number, month, timezone, digest, issued_at, issued_by, records, trim_scale(amount)::text AS amount,
    rounded::text AS rounded,
    substring(encode(substring(document FROM greatest(1, octet_length(document) - 399)), 'escape') FROM '"signature":"([^"]+)"}$')
        AS signature
FROM issued_statements
WHERE customer_id = $1 AND number > $2
ORDER BY number
LIMIT $3;

-- last_number: the number of the statement that was issued last to a customer, 0 without any
SELECT coalesce(max(number), 0) FROM issued_statements WHERE customer_id = $1;

-- other_zones: the months near one ($2 to $3) that were issued to a customer in time zones other than $4
SELECT DISTINCT month, timezone
FROM issued_statements
WHERE customer_id = $1 AND month BETWEEN $2 AND $3 AND timezone <> $4
ORDER BY month, timezone;

-- add_issued: store a statement as issued; returns nothing if another was issued under the number meanwhile
INSERT INTO issued_statements (
    customer_id, number, month, timezone, digest, issued_at, issued_by, records, amount, rounded, document,
    buckets, runs
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::numeric, $10::text::numeric, $11, $12, $13)
ON CONFLICT (customer_id, number) DO NOTHING
RETURNING number;

-- all_issued: a page of all statements that were issued, after a customer and number ($1, $2), for verification
SELECT customer_id, number
FROM issued_statements
WHERE (customer_id, number) > ($1, $2::bigint)
ORDER BY customer_id, number
LIMIT $3;

-- latest_listed: what a list says of the statement of a month that was issued last
SELECT number, month, timezone, digest, issued_at, issued_by, records, trim_scale(amount)::text AS amount,
    rounded::text AS rounded,
    substring(encode(substring(document FROM greatest(1, octet_length(document) - 399)), 'escape') FROM '"signature":"([^"]+)"}$')
        AS signature
FROM issued_statements
WHERE customer_id = $1 AND month = $2 AND timezone = $3
ORDER BY number DESC
LIMIT 1;

-- latest_of_customers: as latest_listed, of each of the customers $1 that has one
SELECT DISTINCT ON (customer_id) customer_id, number, month, timezone, digest, issued_at, issued_by, records,
    trim_scale(amount)::text AS amount, rounded::text AS rounded,
    substring(encode(substring(document FROM greatest(1, octet_length(document) - 399)), 'escape') FROM '"signature":"([^"]+)"}$')
        AS signature
FROM issued_statements
WHERE customer_id = ANY($1::text[]) AND month = $2 AND timezone = $3
ORDER BY customer_id, number DESC;
