"""Bytes to structs. The fast path is one msgspec call; only where it fails is the input read again, field by field,
to name every fault rather than the first.

Whatever is sent, this takes linear time and at most eight times the memory of the body.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from billing_client.contract.decimals import MAX_NUMERAL, NEGATIVE, TOO_LONG, multiply, plain_decimal, plain_decimals
from billing_client.contract.identity import event_request_id, usage_request_id
from billing_client.contract.json_scanning import count_elements, isolate, repeats_a_name
from billing_client.contract.object_decoding import MALFORMED, MAX_ERRORS, Check, FaultsError, ObjectDecoder, pointer_to
from billing_client.contract.problems import ProblemError
from billing_client.contract.timestamps import read_timestamp
from billing_client.contract.wire import (
    MAX_BATCH_RECORDS,
    MAX_DIMENSION_NAME_LENGTH,
    MAX_DIMENSIONS,
    MAX_ID_LENGTH,
    MAX_NAME_LENGTH,
    Batch,
    CustomerChange,
    DimensionName,
    FieldError,
    Id,
    Name,
    NewCustomer,
    NewVoid,
    UsageRecord,
    readable,
)

MAX_AHEAD = timedelta(minutes=5)
MAX_BATCH_ERRORS = 10_000  # that are named of one batch, besides the first of each further record
_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)  # which has a date in every time zone, and is no infinity to PostgreSQL


_decode_text = msgspec.json.Decoder(str).decode


def read_decimal(raw: Raw | memoryview | str, *, signed: bool = False) -> str:
    """Read a JSON number, or a string that holds one, digit by digit; `signed` ones too. Raises ValueError."""
    if isinstance(raw, str):
        return plain_decimal(raw, signed=signed)
    text = bytes(raw)
    if len(text) > 6 * MAX_NUMERAL:  # a character takes six when it is escaped
        raise ValueError(TOO_LONG)
    if text.startswith(b'"'):
        return plain_decimal(_decode_text(text), signed=signed)
    if text[:1] not in b"-0123456789":
        raise ValueError("must be a number, or a string that holds one")
    return plain_decimal(text.decode("ascii"), signed=signed)


def read_units(raw: Raw | memoryview | str, *, may_credit: bool) -> str:
    """Read units, which are below zero in a credit. Raises ValueError, also for one of a caller who may make none."""
    units = read_decimal(raw, signed=True)
    if not may_credit and units.startswith("-"):
        raise ValueError(f"{NEGATIVE}; a credit needs an API key with the scope usage:credit")
    return units


def read_optional_timestamp(raw: Raw | memoryview) -> datetime | None:
    """Read the JSON of a timestamp or null. Raises ValueError."""
    text = _decode_optional_text(raw)
    return None if text is None else read_timestamp(text)


_decode_optional_text = msgspec.json.Decoder(str | None).decode


def _occurred_at(instant: datetime, received_at: datetime) -> datetime:
    """When usage occurred that says this instant: on the first day of year 1 it counts as occurred at the day's end."""
    if instant > received_at + MAX_AHEAD:
        raise ValueError("must be at most 5 minutes ahead of the service's clock")
    return max(instant, _EARLIEST)


def _check_occurred_at(received_at: datetime, raw: Raw | memoryview) -> None:
    if instant := read_optional_timestamp(raw):
        _occurred_at(instant, received_at)


_decode_dimensions = msgspec.json.Decoder(dict[str, Raw] | None).decode


def read_dimensions(raw: Raw | memoryview) -> dict[str, str]:
    """Read the JSON of dimensions: text by name, in the order of code points; none for null. Raises ValueError."""
    given = _decode_dimensions(raw) or {}
    if len(given) > MAX_DIMENSIONS:
        raise ValueError(f"must have at most {MAX_DIMENSIONS} members")
    pairs: dict[str, str] = {}
    faults: list[FieldError] = []
    for name, value in sorted(given.items()):
        try:
            msgspec.convert(name, DimensionName)
            pairs[name] = _decode_name(value)
        except MALFORMED as error:
            faults.append(FieldError(pointer=pointer_to(name), message=readable(error)))
    if given and repeats_a_name(bytes(raw)):
        faults.append(FieldError(pointer="", message="a name stands more than once"))
    if faults:
        raise FaultsError(faults)
    return pairs


_decode_name = msgspec.json.Decoder(Name).decode


class _SentUsage(Struct, rename="camel", forbid_unknown_fields=True):
    """NewUsage as it may be sent: its numbers are numbers or strings, its time is text."""

    customer_id: Id
    service: Name
    units_consumed: Raw
    price_per_unit: Raw
    event_id: Id | None = None
    occurred_at: str | None = None
    dimensions: Raw = Raw(b"null")


_decode_usage = ObjectDecoder[_SentUsage](
    _SentUsage, {"unitsConsumed": read_decimal, "pricePerUnit": read_decimal, "dimensions": read_dimensions}
)
decode_new_customer = ObjectDecoder[NewCustomer](NewCustomer)
decode_new_void = ObjectDecoder[NewVoid](NewVoid)
decode_customer_change = ObjectDecoder[CustomerChange](CustomerChange)


class _UnreadBatch(Struct, forbid_unknown_fields=True):
    """A batch whose records are not even told apart."""

    records: Raw


def _check_records(raw: Raw | memoryview) -> None:
    if bytes(memoryview(raw)[:1]) != b"[":
        raise ValueError("must be an array")
    size, count = memoryview(raw).nbytes, count_elements(memoryview(raw), MAX_BATCH_RECORDS)
    if count > MAX_BATCH_RECORDS:
        raise ValueError(_TOO_MANY)
    if count > MAX_SCRAPS and size < count * _SCRAP:
        raise ValueError(f"must hold usage, but has {count} elements in {size} bytes")


MAX_SCRAPS = 1_000  # elements that are told one by one that they are too short to be usage
_TOO_MANY = f"must hold at most {MAX_BATCH_RECORDS} records"
_SCRAP = 14  # bytes: a fourth of what a record takes while it is still bytes
_decode_batch = ObjectDecoder[Batch](Batch, {"records": _check_records})
_decode_unread_batch = ObjectDecoder[_UnreadBatch](_UnreadBatch)
_decode_records = msgspec.json.Decoder(list[Raw]).decode


def decode_batch(data: bytes) -> Batch:
    """Read a batch whose records, at most MAX_BATCH_RECORDS, stay bytes. Raises ProblemError where it is no batch.

    One of more than MAX_SCRAPS elements of which hardly any can be usage is refused as a whole: told one by one, they
    make an answer of a hundred times its size.

    msgspec refuses the whole of it for half a surrogate pair in one record and for one that is nested too deeply. What
    `isolate` puts in their place then harms that record alone.
    """
    with suppress(*MALFORMED):
        return _read_batch(data)
    data = isolate(data)
    with suppress(*MALFORMED):
        return _read_batch(data)
    raise _decode_batch.refusal(data)


def _read_batch(data: bytes) -> Batch:
    if data.count(b",") * _SCRAP > len(data):  # what may be very many records is counted before each takes memory
        records = _decode_unread_batch.decode(data).records
        _check_records(records)
        return Batch(records=_decode_records(records))
    batch = _decode_batch.decode(data)
    if len(batch.records) > MAX_BATCH_RECORDS:
        raise ValueError(_TOO_MANY)
    return batch


_Decimal = TypeVar("_Decimal")
_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_Dimensions = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=MAX_DIMENSION_NAME_LENGTH)],
        Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)],
    ],
    Meta(max_length=MAX_DIMENSIONS),
]


class _PlainUsage(Struct, Generic[_Decimal], rename="camel", forbid_unknown_fields=True, gc=False):
    """NewUsage without what makes reading it slow: it has no pattern, and its decimals are still to be read."""

    customer_id: _Id
    service: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    units_consumed: _Decimal
    price_per_unit: _Decimal
    event_id: _Id | None = None
    occurred_at: str | None = None
    dimensions: _Dimensions | UnsetType = UNSET


class _Numeral(str):
    """A JSON number that is no integer, digit by digit."""

    __slots__ = ()


_PLAIN_BYTES = 4 * 1024  # of larger usage decimals stay bytes: what stands in their place could take twenty times those
_decode_plain = msgspec.json.Decoder(_PlainUsage[Any], float_hook=_Numeral).decode
_decode_many_plain = msgspec.json.Decoder(list[_PlainUsage[Raw]]).decode


def _is_plain(data: bytes) -> bool:
    """Whether no string in this JSON holds a control character, or an escape."""
    return b"\\" not in data and data.isascii() and b"\x7f" not in data


def _quotes_of(usage: _PlainUsage[Any]) -> int:
    """The quotation marks that its members take, each once: but for those of its decimals themselves."""
    quotes = 12 + 4 * ((usage.event_id is not None) + (usage.occurred_at is not None))
    return quotes if usage.dimensions is UNSET else quotes + 4 * len(usage.dimensions) + 2


def _read_plain_usage(data: bytes, may_credit: bool) -> tuple[_PlainUsage[Any], str, str] | None:
    """Read usage that is surely sound, and its units and price in plain notation: a member that stands twice takes more
    quotation marks. None for all else.

    It costs 1.5 µs; to check three patterns and count six names, 3.7 µs.
    """
    if not _is_plain(data) or len(data) > _PLAIN_BYTES:
        return None
    try:
        usage = _decode_plain(data)
        units, price = usage.units_consumed, usage.price_per_unit
        strings = (type(units) is str) + (type(price) is str)
        if data.count(b'"') != _quotes_of(usage) + 2 * strings:
            return None
        return usage, plain_decimal(_numeral(units), signed=may_credit), plain_decimal(_numeral(price))
    except MALFORMED:
        return None


def _numeral(value: object) -> str:
    """A decimal as it was sent. Raises ValueError for what is none."""
    if not isinstance(value, str) and type(value) is not int:
        raise ValueError("must be a number, or a string that holds one")
    return str(value)


def _read_many(raws: Sequence[Raw], may_credit: bool) -> tuple[list[_PlainUsage[Raw]], list[str], list[str]] | None:
    """As `_read_plain_usage`: all of some usage, or None. No usage has fewer quotation marks than it should, so they
    are counted together. Raises one of MALFORMED for what is not sound."""
    data = b"[%b]" % b",".join(raws)
    if not _is_plain(data):
        return None
    usages = _decode_many_plain(data)
    units, prices = [usage.units_consumed for usage in usages], [usage.price_per_unit for usage in usages]
    lines = b"\n".join(units + prices)
    if data.count(b'"') != lines.count(b'"') + sum(map(_quotes_of, usages)):
        return None
    values = plain_decimals(lines.decode(), signed=may_credit * len(usages))
    return usages, values[: len(usages)], values[len(usages) :]


def _dimensions_of(usage: _SentUsage | _PlainUsage[Any]) -> dict[str, str] | UnsetType:
    """The dimensions by the code points of their names; UNSET without any. Raises ValueError."""
    if isinstance(usage, _SentUsage):
        return read_dimensions(usage.dimensions) or UNSET
    if not usage.dimensions:
        return UNSET
    return dict(sorted(usage.dimensions.items()))


def _record_of(
    usage: _SentUsage | _PlainUsage[Any], units: str, price: str, received_at: datetime, recorded_by: str | None
) -> UsageRecord[str]:
    """The record that usage would become. Raises one of MALFORMED for its time or its dimensions."""
    occurred_at = received_at
    if usage.occurred_at is not None:
        occurred_at = _occurred_at(read_timestamp(usage.occurred_at), received_at)
    dimensions = _dimensions_of(usage)
    if usage.event_id is None:
        request_id = usage_request_id(usage.customer_id, usage.service, units, price, dimensions or None)
    else:
        request_id = event_request_id(usage.customer_id, usage.event_id)
    return UsageRecord(  # by position, which takes 0.5 µs less
        request_id,
        usage.customer_id,
        usage.service,
        units,
        price,
        multiply(units, price),
        usage.event_id,
        occurred_at,
        received_at,
        None,
        recorded_by,
        dimensions,
    )


def decode_usage(
    data: bytes,
    received_at: datetime,
    recorded_by: str | None = None,
    max_errors: int = MAX_ERRORS,
    *,
    may_credit: bool = True,
) -> UsageRecord[str]:
    """Read one line of usage as the record it would become, request id and exact amount included.

    `data` is the JSON; `received_at`, by which `occurredAt` is in the future or not, the time of receipt in UTC;
    `recorded_by` the name of the caller's API key; `may_credit` whether the caller may report units below zero. Raises
    ProblemError with the faults, at most `max_errors` of them.
    """
    try:
        if plain := _read_plain_usage(data, may_credit):
            return _record_of(*plain, received_at, recorded_by)
        usage = _decode_usage.decode(data)
        units = read_units(usage.units_consumed, may_credit=may_credit)
        return _record_of(usage, units, read_decimal(usage.price_per_unit), received_at, recorded_by)
    except MALFORMED as error:
        checks: dict[str, Check] = {
            "occurredAt": partial(_check_occurred_at, received_at),
            "unitsConsumed": partial(read_units, may_credit=may_credit),
        }
        raise _decode_usage.refusal(data, max_errors, checks) from error


class RecordDecoder:
    """Reads the records of one batch, in their order, as `decode_usage` does.

    An answer must not be many times what was sent. So at most MAX_BATCH_ERRORS faults are named in all, MAX_ERRORS of
    one record; when they are used up each further record that is refused is told its first fault alone.
    """

    def __init__(self, received_at: datetime, recorded_by: str | None = None, *, may_credit: bool = True) -> None:
        self._received_at = received_at
        self._recorded_by = recorded_by
        self._may_credit = may_credit
        self._left = MAX_BATCH_ERRORS

    def many(self, raws: Sequence[Raw]) -> Iterable[UsageRecord[str] | ProblemError]:
        """The next records, each of them or why it is refused. To read sound ones together costs a third."""
        with suppress(*MALFORMED):
            if read := _read_many(raws, self._may_credit):
                facts = self._received_at, self._recorded_by
                return [_record_of(*each, *facts) for each in zip(*read, strict=True)]
        return map(self._one, raws)  # one at a time: an error is larger than most records

    def _one(self, raw: Raw) -> UsageRecord[str] | ProblemError:
        try:
            return self(raw)
        except ProblemError as error:
            return error

    def __call__(self, raw: Raw) -> UsageRecord[str]:
        """The next record. Raises ProblemError."""
        try:
            errors = min(MAX_ERRORS, self._left) or 1
            return decode_usage(bytes(raw), self._received_at, self._recorded_by, errors, may_credit=self._may_credit)
        except ProblemError as error:
            self._left = max(0, self._left - len(error.details.errors or ()))
            raise
