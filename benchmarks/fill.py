"""Usage that is stored already: written by the database itself, as the service would have written it, in less time."""

from datetime import datetime, timedelta

from benchmarks.servers import create_customers, query
from benchmarks.usages import SERVICES

_CHUNK = 1_000_000
_QUICKLY = {"session_replication_role": "replica"}  # no foreign key is looked up
_RECORDS = f"""
INSERT INTO usage_records
    (customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at, dimensions)
SELECT $1::text, sha256(convert_to('["event.v1","' || $1 || '","stored-' || n || '"]', 'UTF8')), 'stored-' || n,
    ('{{{",".join(SERVICES)}}}'::text[])[n % {len(SERVICES)} + 1], n % 997 + 1.25, 0.0235,
    $4::timestamptz + n * $5::interval, $4::timestamptz + n * $5::interval,
    CASE WHEN $6::bigint > 0 THEN jsonb_build_object('model', 'model ' || n % $6) END
FROM generate_series($2::bigint, $3::bigint) AS n
"""
_ROLLUPS = """
INSERT INTO usage_rollups (customer_id, bucket_minutes, bucket, service, records, units, amount)
SELECT customer_id, grain, date_bin(grain * interval '1 minute', occurred_at, timestamptz '2000-01-01T00:00:00Z'),
    service, count(*), sum(units_consumed), sum(units_consumed * price_per_unit)
FROM usage_records CROSS JOIN unnest(ARRAY[15, 180]::smallint[]) AS grain
WHERE customer_id = $1::text
GROUP BY 1, 2, 3, 4
"""


def fill(url: str, customer_id: str, records: int, start: datetime, span: timedelta, models: int = 0) -> None:
    """Store a new customer's records, spread evenly from `start` over `span`, and what they add up to.

    With `models` they have a dimension of so many values.
    """
    create_customers(url, [customer_id])
    for first in range(0, records, _CHUNK):
        last = min(first + _CHUNK, records) - 1
        query(url, _RECORDS, customer_id, first, last, start, span / records, models, settings=_QUICKLY)
    query(url, _ROLLUPS, customer_id)


def settle(url: str) -> None:
    """What autovacuum and the checkpointer would do in time, so that neither falls into a measure."""
    query(url, "VACUUM (ANALYZE)")
    query(url, "CHECKPOINT")
