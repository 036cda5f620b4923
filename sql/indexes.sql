-- usage_records_late_idx: what was recorded more than an hour late, by its three hours of UTC and when it was recorded.
-- With it statements find what a piece has not seen yet. What comes on time is not in it and costs nothing
CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_records_late_idx ON usage_records (
    customer_id, date_bin('3 hours', occurred_at, timestamptz '2000-01-01T00:00:00Z'), recorded_at, request_id
)
WHERE recorded_at - occurred_at > interval '1 hour';

-- drop_usage_records_late_idx: drop it, to build it anew
DROP INDEX CONCURRENTLY IF EXISTS usage_records_late_idx;
