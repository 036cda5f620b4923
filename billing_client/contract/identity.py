"""What makes two reports of usage the same usage: the request id, and the plain decimals it is made of.

The id is the SHA-256 of a JSON array of strings without white space, escaped as in RFC 8785::

    ["usage.v1",customerId,service,unitsConsumed,pricePerUnit]      without an event id
    ["event.v1",customerId,eventId]                                 with one

`request_id_vectors.json` beside this file holds vectors for other languages.
"""

import re
import secrets
import time
from hashlib import sha256
from uuid import UUID

import msgspec

MAX_DIGITS = 38
MAX_FRACTION_DIGITS = 18
MAX_NUMERAL = 100_000  # characters that a number may be written in, needless zeros included

# What a string may hold: numeric-string of the General Decimal Arithmetic specification, which Decimal() of most
# languages takes, less its special values. It has more than a number of JSON (RFC 8259): `+1`, `0012`, `.5` and `1.`.
NUMERAL = r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?)([0-9]+))?"
_NUMERAL = re.compile(NUMERAL)
_PLAIN = re.compile(
    r"(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{0,17}[1-9])?"
)  # what is written so already, of 38 digits at most
TOO_LONG = f"must have at most {MAX_DIGITS} digits, written in at most {MAX_NUMERAL} characters"
_encode = msgspec.json.Encoder().encode  # writes strings as RFC 8785, section 3.2.2.2 wants them


def plain_decimal(text: str) -> str:
    """Write a decimal number the one way that counts: no exponent, no plus sign, no needless zeros.

    `15`, `15.0` and `1.5e1` give `15`; every zero gives `0`.
    Raises ValueError, with a message fit for a caller, for anything but a finite number that is not negative
    and has at most 38 digits, at most 18 of them after the point, written in at most MAX_NUMERAL characters.
    """
    if _PLAIN.fullmatch(text):
        return text
    if len(text) > MAX_NUMERAL:
        raise ValueError(TOO_LONG)
    match = _NUMERAL.fullmatch(text)
    if match is None:
        raise ValueError("must be a finite decimal number")
    sign, whole, fraction, only_fraction, exponent_sign, exponent = match.groups()
    whole, fraction = whole or "", fraction or only_fraction or ""
    if exponent is not None:
        whole, fraction = _shift(whole, fraction, -1 if exponent_sign == "-" else 1, exponent)
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    if not whole and not fraction:
        return "0"
    if sign == "-":
        raise ValueError("must not be negative")
    if len(fraction) > MAX_FRACTION_DIGITS:
        raise ValueError(f"must have at most {MAX_FRACTION_DIGITS} digits after the point")
    if len(whole) + len(fraction) > MAX_DIGITS:
        raise ValueError(f"must have at most {MAX_DIGITS} digits")
    return f"{whole or '0'}.{fraction}" if fraction else whole


def _shift(whole: str, fraction: str, direction: int, exponent: str) -> tuple[str, str]:
    """Move the point by an exponent, in time and memory that do not depend on the exponent's size."""
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "", ""
    magnitude = exponent.lstrip("0") or "0"
    # further than any digit given could bring back into range: the limits on digits then refuse it
    distance = int(magnitude) if len(magnitude) <= 9 else 10**9
    reach = len(whole) + len(fraction) + MAX_DIGITS + MAX_FRACTION_DIGITS
    shift = direction * min(distance, reach)
    point = len(digits) - len(fraction) + shift
    if point <= 0:
        return "", "0" * -point + digits
    return digits[:point].ljust(point, "0"), digits[point:]


def usage_request_id(customer_id: str, service: str, units_consumed: str, price_per_unit: str) -> str:
    """The request id of usage without an event id, from plain decimals: 64 lower-case hex digits."""
    return sha256(_encode(["usage.v1", customer_id, service, units_consumed, price_per_unit])).hexdigest()


def event_request_id(customer_id: str, event_id: str) -> str:
    """The request id of usage with an event id: 64 lower-case hex digits."""
    return sha256(_encode(["event.v1", customer_id, event_id])).hexdigest()


def new_customer_id() -> str:
    """`cus_` and a UUIDv7 (RFC 9562, section 5.7), so that ids sort by the time they were made."""
    random = secrets.randbits(74)
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return f"cus_{UUID(int=value)}"
