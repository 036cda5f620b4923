-- When usage of each service was last recorded. It tells "no usage" from "metering is broken", also after a restart. It has
-- a few rows, no customer id, and is written every few seconds at most; if the other tables are distributed, this one is not.

CREATE TABLE service_activity (
    service text COLLATE "C" NOT NULL,
    last_recorded_at timestamptz NOT NULL,
    CONSTRAINT service_activity_pkey PRIMARY KEY (service)
);

INSERT INTO service_activity (service, last_recorded_at)
SELECT service, max(recorded_at) FROM usage_records GROUP BY service ORDER BY max(recorded_at) DESC LIMIT 100;
