-- keep_refusals: add refusals
INSERT INTO usage_refusals (
    customer_id, refusal_id, refused_at, code, submitted_by, request_id, event_id, errors, conflicts, submitted
)
SELECT unnest($1::text[]), unnest($2::uuid[]), unnest($3::timestamptz[]), unnest($4::text[]), unnest($5::bytea[]),
    unnest($6::bytea[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[]);

-- list_refusals: one page of all refusals, latest first, before the id $1, refused from $2 to $3
SELECT customer_id, refusal_id, refused_at, code, submitted_by, request_id, event_id, errors, conflicts, submitted
FROM usage_refusals
WHERE refusal_id < $1 AND refused_at >= $2::timestamptz AND refused_at < $3::timestamptz
    AND ($4::text IS NULL OR code = $4) AND ($5::bytea IS NULL OR submitted_by = $5)
    AND ($6::bytea IS NULL OR request_id = $6) AND ($7::text IS NULL OR event_id = $7)
ORDER BY refusal_id DESC
LIMIT $8;

-- list_refusals_of_customer: as list_refusals, for the customer $9
SELECT customer_id, refusal_id, refused_at, code, submitted_by, request_id, event_id, errors, conflicts, submitted
FROM usage_refusals
WHERE customer_id = $9
    AND refusal_id < $1 AND refused_at >= $2::timestamptz AND refused_at < $3::timestamptz
    AND ($4::text IS NULL OR code = $4) AND ($5::bytea IS NULL OR submitted_by = $5)
    AND ($6::bytea IS NULL OR request_id = $6) AND ($7::text IS NULL OR event_id = $7)
ORDER BY refusal_id DESC
LIMIT $8;

-- count_refusals: how many refusals there are from $1 to $2, and the time of the last, by key and code; of the customer $3,
-- or of all where it is null
SELECT submitted_by, code, count(*) AS refusals, max(refused_at) AS last_refused_at
FROM usage_refusals
WHERE refused_at >= $1::timestamptz AND refused_at < $2::timestamptz AND ($3::text IS NULL OR customer_id = $3)
GROUP BY submitted_by, code
ORDER BY refusals DESC, submitted_by, code
LIMIT $4;

-- find_excess_of_customers: for each of these customers that has more than $2 refusals the latest one beyond that
SELECT customer_id, refusal_id
FROM (
    SELECT customer_id, refusal_id, row_number() OVER (PARTITION BY customer_id ORDER BY refusal_id DESC) AS place
    FROM usage_refusals
    WHERE customer_id = ANY($1::text[])
) AS placed
WHERE place = $2::bigint + 1;

-- drop_excess_of_customer: delete the refusals of a customer up to this one
DELETE FROM usage_refusals WHERE customer_id = $1 AND refusal_id <= $2;

-- find_excess: where there are more than $1 refusals in all, the latest one beyond that
SELECT refusal_id FROM usage_refusals ORDER BY refusal_id DESC OFFSET $1 LIMIT 1;

-- drop_excess: delete all refusals up to this one
DELETE FROM usage_refusals WHERE refusal_id <= $1;
