"""What makes two reports of usage the same usage: the request id, and the plain decimals it is made of.

The id is the SHA-256 of a JSON array of strings without white space, escaped as in RFC 8785::

    ["usage.v1",customerId,service,unitsConsumed,pricePerUnit]                 without an event id
    ["usage.v2",customerId,service,unitsConsumed,pricePerUnit,name,value,…]    without one, with dimensions
    ["event.v1",customerId,eventId]                                            with an event id

Dimensions are in the order of the code points of their names.

`request_id_vectors.json` beside this file holds vectors for other languages.
"""

import secrets
import time
from collections.abc import Mapping
from hashlib import sha256
from uuid import UUID

import msgspec

_encode = msgspec.json.Encoder().encode  # writes strings as RFC 8785, section 3.2.2.2 wants them


def usage_request_id(
    customer_id: str,
    service: str,
    units_consumed: str,
    price_per_unit: str,
    dimensions: Mapping[str, str] | None = None,
) -> str:
    """The request id of usage without an event id, from plain decimals: 64 lower-case hex digits."""
    if dimensions:
        pairs = [text for pair in sorted(dimensions.items()) for text in pair]
        return sha256(_encode(["usage.v2", customer_id, service, units_consumed, price_per_unit, *pairs])).hexdigest()
    return sha256(_encode(["usage.v1", customer_id, service, units_consumed, price_per_unit])).hexdigest()


def event_request_id(customer_id: str, event_id: str) -> str:
    """The request id of usage with an event id: 64 lower-case hex digits."""
    return sha256(_encode(["event.v1", customer_id, event_id])).hexdigest()


def new_customer_id() -> str:
    """`cus_` and a UUIDv7, so that ids sort by the time they were made."""
    return f"cus_{new_uuid(time.time_ns() // 1_000_000)}"


def new_uuid(milliseconds: int) -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7) of this time, in milliseconds since 1970."""
    random = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)
