-- usage_records_late_idx: what was recorded more than an hour late, by its three hours of UTC and when it was recorded.
-- With it statements find what a piece has not seen yet. What comes on time is not in it and costs nothing
CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_records_late_idx ON usage_records (
    customer_id, date_bin('3 hours', occurred_at, timestamptz '2000-01-01T00:00:00Z'), recorded_at, request_id
)
WHERE recorded_at - occurred_at > interval '1 hour';

-- drop_usage_records_late_idx: drop it, to build it anew
DROP INDEX CONCURRENTLY IF EXISTS usage_records_late_idx;

-- usage_rollups_bucket_idx: the sums of all customers in a month. Buckets lie in the table about in the order of time, so an index
-- of block ranges finds those of a month. It is small, and costs a write next to nothing
CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_rollups_bucket_idx ON usage_rollups USING brin (bucket) WITH (autosummarize = on);

-- drop_usage_rollups_bucket_idx: drop it, to build it anew
DROP INDEX CONCURRENTLY IF EXISTS usage_rollups_bucket_idx;

-- usage_voids_voided_at_idx: the latest voids of all customers
CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_voids_voided_at_idx ON usage_voids (voided_at);

-- drop_usage_voids_voided_at_idx: drop it, to build it anew
DROP INDEX CONCURRENTLY IF EXISTS usage_voids_voided_at_idx;
