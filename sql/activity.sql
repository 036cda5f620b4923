-- save_activity: moves the last moments of these services on, never back
INSERT INTO service_activity AS known (service, last_recorded_at)
SELECT service, last_recorded_at FROM unnest($1::text[], $2::timestamptz[]) AS noted (service, last_recorded_at)
ORDER BY service
ON CONFLICT (service) DO UPDATE SET last_recorded_at = greatest(known.last_recorded_at, excluded.last_recorded_at);

-- latest_activity: the services that usage was recorded of last
SELECT service, last_recorded_at FROM service_activity ORDER BY last_recorded_at DESC LIMIT $1;
