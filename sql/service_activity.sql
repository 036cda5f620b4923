-- save_activity: move the last moments of these services forward, never back, and count that they were active
INSERT INTO service_activity AS known (service, last_recorded_at)
SELECT service, last_recorded_at FROM unnest($1::text[], $2::timestamptz[]) AS noted (service, last_recorded_at)
ORDER BY service
ON CONFLICT (service) DO UPDATE SET
    last_recorded_at = greatest(known.last_recorded_at, excluded.last_recorded_at),
    times_active = known.times_active + 1;

-- most_active: when the $1 services that are active most often were last active, and when all others were, as `other`
WITH ranked AS (
    SELECT service, last_recorded_at, row_number() OVER (ORDER BY times_active DESC, last_recorded_at DESC, service) AS rank
    FROM service_activity
)
SELECT CASE WHEN rank <= $1 THEN service ELSE 'other' END AS service, max(last_recorded_at) AS last_recorded_at
FROM ranked
GROUP BY CASE WHEN rank <= $1 THEN service ELSE 'other' END;
