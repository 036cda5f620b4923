"""The content hash of a record and of a void: SHA-256 over all that was said, so that no change of it goes unseen.

It is the SHA-256 of the UTF-8 bytes of a JSON array of strings without white space, escaped as in RFC 8785::

    ["record.v1",customerId,requestId,service,unitsConsumed,pricePerUnit,occurredAt,recordedAt,name,value,…]
    ["void.v1",customerId,requestId,voidedAt,voidedBy,voidReason,name,value,…]

Decimals are written as in the request id. Times are in UTC with six digits after the point, such as
`2026-11-02T10:30:00.000000Z`. The pairs at the end are the members that not every record has, each only where it has a
value, in the order of the code points of their names: `eventId`, `recordedBy` and each dimension as `dimension.NAME`,
for a void `voidedFor`. A member that is added to records later comes as such a pair, so that the hashes of records
without it stay as they are.

`content_hash_vectors.json` beside this file holds vectors for other languages.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256

import msgspec

from billing_client.contract.decimals import plain
from billing_client.contract.wire import UsageRecord, VoidedUsage

_encode = msgspec.json.Encoder().encode  # writes strings as RFC 8785, section 3.2.2.2 wants them


def record_content(record: UsageRecord[str] | UsageRecord[Decimal]) -> bytes:
    """The bytes whose SHA-256 is the content hash of a record. Whether it is voided does not count."""
    return _content(
        "record.v1",
        (
            record.customer_id,
            record.request_id,
            record.service,
            plain(Decimal(record.units_consumed)),
            plain(Decimal(record.price_per_unit)),
            instant_text(record.occurred_at),
            instant_text(record.recorded_at),
        ),
        {"eventId": record.event_id, "recordedBy": record.recorded_by}
        | {f"dimension.{name}": value for name, value in (record.dimensions or {}).items()},
    )


def record_hash(record: UsageRecord[str] | UsageRecord[Decimal]) -> bytes:
    """The content hash of a record, 32 bytes."""
    return sha256(record_content(record)).digest()


def void_content(void: VoidedUsage[str] | VoidedUsage[Decimal]) -> bytes:
    """The bytes whose SHA-256 is the content hash of a void. Raises ValueError for a record that is not voided."""
    if void.voided_at is None:
        raise ValueError("the record is not voided")
    required = (void.customer_id, void.request_id, instant_text(void.voided_at), void.voided_by, void.void_reason)
    return _content("void.v1", required, {"voidedFor": void.voided_for})


def void_hash(void: VoidedUsage[str] | VoidedUsage[Decimal]) -> bytes:
    """The content hash of a void, 32 bytes. Raises ValueError for a record that is not voided."""
    return sha256(void_content(void)).digest()


def instant_text(instant: datetime) -> str:
    """A time as content hashes and digests write it: in UTC, with six digits after the point."""
    return f"{instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _content(kind: str, required: tuple[str, ...], optional: Mapping[str, str | None]) -> bytes:
    pairs = ((name, value) for name, value in sorted(optional.items()) if value is not None)
    return _encode([kind, *required, *(text for pair in pairs for text in pair)])
