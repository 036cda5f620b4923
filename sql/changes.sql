-- tell_changes: say what changed of which customers. Each kind has its customers in one text, joined by line feeds, which no
-- id contains
INSERT INTO changes (changed_at, kind, customer_ids, more)
SELECT clock_timestamp(), kind, string_to_array(customer_ids, E'\n', ''), more
FROM unnest($1::text[], $2::text[], $3::boolean[]) AS told (kind, customer_ids, more);

-- range_of_changes: the first and the last that is kept
SELECT coalesce(min(change_id), 1) AS first, coalesce(max(change_id), 0) AS last FROM changes;

-- read_changes: what was told after $1, without those in $2
SELECT change_id, kind, customer_ids, more
FROM changes
WHERE change_id > $1 AND change_id <> ALL($2::bigint[])
ORDER BY change_id
LIMIT $3;

-- drop_changes: delete what is older than $1 seconds, but for the last ($2), which holds the number
DELETE FROM changes WHERE changed_at < now() - make_interval(secs => $1) AND change_id < $2;
