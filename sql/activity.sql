-- save_activity: save when usage of these services was last recorded; a later time is never replaced by an earlier one
INSERT INTO service_activity AS known (service, last_recorded_at)
SELECT service, last_recorded_at FROM unnest($1::text[], $2::timestamptz[]) AS noted (service, last_recorded_at)
ORDER BY service
ON CONFLICT (service) DO UPDATE SET last_recorded_at = greatest(known.last_recorded_at, excluded.last_recorded_at);

-- latest_activity: the services whose usage was recorded last, latest first
SELECT service, last_recorded_at FROM service_activity ORDER BY last_recorded_at DESC LIMIT $1;
