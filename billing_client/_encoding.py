"""From what a caller passes in to the bytes that are sent."""

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_type_hints
from urllib.parse import quote

import msgspec
from msgspec import Struct

from billing_client._errors import ValidationError
from billing_client._records import Usage
from billing_client.contract import wire
from billing_client.contract.decimals import plain_decimal
from billing_client.contract.identity import event_request_id, usage_request_id
from billing_client.contract.wire import (
    MAX_DIMENSION_NAME_LENGTH,
    MAX_DIMENSIONS,
    MAX_ID_LENGTH,
    MAX_NAME_LENGTH,
    DimensionName,
    FieldError,
    Id,
    Name,
    NewUsage,
    Timestamp,
)

_encoder = msgspec.json.Encoder()
encode, encode_into = _encoder.encode, _encoder.encode_into


class EncodedUsage(Struct, frozen=True, gc=False):
    """One use as it is sent, and its request id, as the service will compute it."""

    body: bytes
    request_id: str


def encode_usage(usage: Usage) -> EncodedUsage:
    """Check and encode one use. Raises ValidationError, which names every fault."""
    new, request_id = check_usage(usage)
    return EncodedUsage(encode(new), request_id)


def check_usage(usage: Usage) -> tuple[NewUsage[str], str]:
    """One use as it is sent, and its request id, as the service will compute it.

    Raises ValidationError, which names every fault.
    """
    errors: list[FieldError] = []
    at = usage.occurred_at
    new: NewUsage[str] = NewUsage(
        customer_id=_text("/customerId", usage.customer_id, Id, MAX_ID_LENGTH, errors),
        service=_text("/service", usage.service, Name, MAX_NAME_LENGTH, errors),
        units_consumed=_decimal("/unitsConsumed", usage.units_consumed, errors, signed=True),
        price_per_unit=_decimal("/pricePerUnit", usage.price_per_unit, errors),
        event_id=None if usage.event_id is None else _text("/eventId", usage.event_id, Id, MAX_ID_LENGTH, errors),
        occurred_at=None if at is None else _converted("/occurredAt", at, Timestamp, errors),
        dimensions=_dimensions(usage.dimensions, errors) if usage.dimensions else None,
    )
    if errors:
        raise invalid(errors)
    if new.event_id is not None:
        return new, event_request_id(new.customer_id, new.event_id)
    return new, usage_request_id(new.customer_id, new.service, new.units_consumed, new.price_per_unit, new.dimensions)


def encode_body(body: type[Struct], **values: str | None) -> bytes:
    """Check and encode the fields of a small request body. Raises ValidationError."""
    hints = get_type_hints(body, include_extras=True)
    errors: list[FieldError] = []
    pointers = {field.name: f"/{field.encode_name}" for field in msgspec.structs.fields(body)}
    checked = {name: _converted(pointers[name], value, hints[name], errors) for name, value in values.items()}
    if errors:
        raise invalid(errors)
    return encode(body(**checked))


def invalid(errors: list[FieldError]) -> ValidationError:
    """The error of input that the client refuses before it is sent."""
    detail = "; ".join(f"{error.pointer}: {error.message}" for error in errors)
    return ValidationError(detail, code="validation_error", errors=errors)


def _text(pointer: str, value: Any, type_: Any, longest: int, errors: list[FieldError]) -> Any:
    # printable text has no control characters and no lone surrogates; this costs 4 µs less than msgspec's pattern
    if type(value) is str and 0 < len(value) <= longest and value.isprintable():
        return value
    return _converted(pointer, value, type_, errors)


def _dimensions(given: Any, errors: list[FieldError]) -> dict[str, str] | None:
    if not isinstance(given, Mapping):
        errors.append(FieldError(pointer="/dimensions", message="must be a mapping of names to values"))
        return None
    if len(given) > MAX_DIMENSIONS:
        errors.append(FieldError(pointer="/dimensions", message=f"must have at most {MAX_DIMENSIONS} members"))
        return None
    pairs: dict[str, str] = {}
    for name, value in given.items():
        pointer = f"/dimensions/{str(name).replace('~', '~0').replace('/', '~1')}"
        _text(pointer, name, DimensionName, MAX_DIMENSION_NAME_LENGTH, errors)
        pairs[name] = _text(pointer, value, Name, MAX_NAME_LENGTH, errors)
    return pairs


def _decimal(pointer: str, value: Any, errors: list[FieldError], *, signed: bool = False) -> Any:
    try:
        if type(value) is str:
            return plain_decimal(value, signed=signed)
        if isinstance(value, bool) or not isinstance(value, (Decimal, int, str)):
            raise ValueError("must be a Decimal, an int or a str; a float does not hold a decimal's digits")
        return plain_decimal(_digits(value), signed=signed)
    except ValueError as error:
        errors.append(FieldError(pointer=pointer, message=str(error)))


def _digits(value: Decimal | int | str) -> str:
    """The digits of a number, even if it is of a subclass that prints something else."""
    if isinstance(value, Decimal):
        return Decimal.__str__(value)
    return int.__repr__(value) if isinstance(value, int) else str.__str__(value)


def _converted(pointer: str, value: Any, type_: Any, errors: list[FieldError]) -> Any:
    try:
        if isinstance(value, str):
            value.encode()  # lone surrogates have no UTF-8
        if isinstance(value, datetime):  # msgspec refuses subclasses, such as those of pandas and pendulum
            value = datetime.combine(value.date(), value.timetz())
        converted = msgspec.convert(value, type_)
        # in UTC, because RFC 3339 has no offsets with seconds
        return converted.astimezone(UTC) if isinstance(converted, datetime) else converted
    except (ValueError, OverflowError) as error:
        errors.append(FieldError(pointer=pointer, message=wire.readable(error)))


_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def checked_key(key: str | None) -> str:
    """The Idempotency-Key of a call: the one given, or a new one. Raises ValidationError."""
    if key is None:
        return secrets.token_hex(16)
    if not is_key(key):
        message = "must be 1 to 255 visible ASCII characters, the first of them no quotation mark"
        raise invalid([FieldError(pointer="header/Idempotency-Key", message=message)])
    return key


def is_key(text: str) -> bool:
    """Whether text can be an Idempotency-Key."""
    return _KEY.fullmatch(text) is not None and not text.startswith('"')


def path_segment(text: str) -> str:
    """An id as one segment of a path. `.` and `..` are encoded too, since they would mean another folder."""
    try:
        return "%2E" * len(text) if text in (".", "..") else quote(text, safe="")
    except UnicodeEncodeError as error:
        raise invalid([FieldError(pointer="path/id", message=wire.readable(error))]) from error


def instant(value: datetime) -> str:
    """An instant as a query parameter, in UTC. Raises ValidationError if it has no time zone."""
    errors: list[FieldError] = []
    converted = _converted("query", value, wire.Timestamp, errors)
    if errors:
        raise invalid(errors)
    return str(converted.isoformat())


def query_text(name: str, text: str) -> str:
    """Text as a query parameter. Raises ValidationError if it has no UTF-8."""
    errors: list[FieldError] = []
    _converted(f"query/{name}", text, str, errors)
    if errors:
        raise invalid(errors)
    return text
