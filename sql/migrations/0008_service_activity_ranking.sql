-- How often a service was seen active: a service that was seen once gives way to one that is seen all the time.
ALTER TABLE service_activity ADD COLUMN times_active bigint NOT NULL DEFAULT 1;
