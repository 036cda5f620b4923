"""What stands in the line and the headers of a request: the query, the ids in the path, the key, the body's type."""

import functools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, get_type_hints
from urllib.parse import parse_qsl, unquote
from zoneinfo import available_timezones

import msgspec
from msgspec import Struct

from billing_client.contract.problems import ProblemError, excerpt, invalid, invalid_input, problem
from billing_client.contract.query_parameters import DIMENSION, DIMENSION_FILTERS, NoQuery
from billing_client.contract.timestamps import read_instant, read_timestamp
from billing_client.contract.wire import DimensionName, FieldError, Id, Name, readable

Q = TypeVar("Q", bound=Struct)

_JSON = re.compile(r"application/(?:[\w.-]+\+)?json", re.IGNORECASE)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\";\s]+)", re.IGNORECASE)
_QUOTED_KEY = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')  # an sf-string, RFC 9651
_BARE_KEY = re.compile(r"[\x21\x23-\x7e][\x21-\x7e]*")
BEGINNING = datetime.min.replace(tzinfo=UTC)  # the database's -infinity
END = datetime.max.replace(tzinfo=UTC)  # the database's infinity
MAX_KEY_LENGTH = 255


def read_id(segment: str) -> str:
    """The id that a segment of a path holds, percent-encoded. Raises ProblemError."""
    try:
        return msgspec.convert(unquote(segment, errors="strict"), Id)
    except ValueError as error:
        raise invalid_input("path/id", readable(error)) from error


@functools.lru_cache(100)
def check_body_type(content_type: str | None, content_encoding: str | None) -> None:
    """Raise ProblemError (415) unless a body is JSON in UTF-8, sent as it is, and its Content-Type says so.

    A browser sends a body without a Content-Type, or as text/plain, to another site without asking that site first.
    """
    media_type, _, parameters = (content_type or "").partition(";")
    charset = _CHARSET.search(f";{parameters}")
    if not _JSON.fullmatch(media_type.strip()):
        raise ProblemError(problem("unsupported_media_type", "Send the body with Content-Type: application/json."))
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        raise ProblemError(problem("unsupported_media_type", "Send the JSON in UTF-8 (RFC 8259, section 8.1)."))
    if content_encoding is not None and content_encoding.lower() != "identity":
        raise ProblemError(problem("unsupported_media_type", "Send the body without a Content-Encoding."))


def read_key(values: Sequence[str]) -> str | None:
    """The `Idempotency-Key`: a quoted string as the IETF's draft has it, or bare. Raises ProblemError."""
    if not values:
        return None
    if len(values) > 1:
        raise invalid_input("header/Idempotency-Key", "must be given once")
    if match := _QUOTED_KEY.fullmatch(values[0]):
        key = re.sub(r"\\(.)", r"\1", match[1])
    else:
        key = values[0] if _BARE_KEY.fullmatch(values[0]) else ""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        message = f"must be 1 to {MAX_KEY_LENGTH} visible ASCII characters, bare or as a quoted string"
        raise invalid_input("header/Idempotency-Key", message)
    return key


def _query_items(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise invalid_input("query", "must hold at most 100 parameters in percent-encoded UTF-8") from error


class _Parameter(NamedTuple):
    """A parameter's name in Python and what reads its text. `read` raises ValueError."""

    field: str
    read: Callable[[str], Any]
    is_required: bool


@functools.cache
def _parameters(struct: type[Struct]) -> dict[str, _Parameter]:
    """The parameters of a query by the name on the wire."""
    hints = get_type_hints(struct, include_extras=True)
    return {
        field.encode_name: _Parameter(field.name, _reader(hints[field.name]), field.required)
        for field in msgspec.structs.fields(struct)
    }


def _reader(hint: Any) -> Callable[[str], Any]:
    """What reads the text of a parameter of this type."""
    type_ = msgspec.inspect.type_info(hint)
    if isinstance(type_, msgspec.inspect.Metadata):  # of a description
        type_ = type_.type
    kinds = type_.types if isinstance(type_, msgspec.inspect.UnionType) else (type_,)
    if any(isinstance(kind, msgspec.inspect.DateTimeType) for kind in kinds):
        return read_timestamp
    # only numbers are read from text that is not theirs
    is_number = isinstance(type_, (msgspec.inspect.IntType, msgspec.inspect.BoolType))
    return functools.partial(msgspec.convert, type=hint, strict=not is_number)


def read_query(query: bytes, struct: type[Q]) -> Q:
    """The query as a struct. Raises ProblemError for a parameter that is missing, unknown, repeated or not valid."""
    if not query and struct is NoQuery:
        return struct()
    parameters = _parameters(struct)
    values: dict[str, Any] = {}
    errors = []
    items = _query_items(query)
    names = {name for name, _ in items}
    for name, text in items:
        try:
            if name.startswith(DIMENSION) and DIMENSION_FILTERS in parameters:
                _add_filter(values.setdefault(parameters[DIMENSION_FILTERS].field, {}), name, text)
                continue
            if name not in parameters:
                raise ValueError(f"is not a parameter of this address; it takes {', '.join(parameters) or 'none'}")
            parameter = parameters[name]
            if parameter.field in values:
                raise ValueError("must be given once")
            values[parameter.field] = parameter.read(text)
        except ValueError as error:
            errors.append(FieldError(pointer=f"query/{excerpt(name)}", message=readable(error)))
    for name, parameter in parameters.items():
        if parameter.is_required and name not in names:
            errors.append(FieldError(pointer=f"query/{name}", message="is required"))
    if errors:
        raise ProblemError(invalid(errors))
    return struct(**values)


def _add_filter(filters: dict[str, str], parameter: str, text: str) -> None:
    """Add the value that a dimension must have. Raises ValueError."""
    name = msgspec.convert(parameter.removeprefix(DIMENSION), DimensionName)
    if name in filters:
        raise ValueError("must be given once")
    filters[name] = msgspec.convert(text, Name)


def instant_parameter(name: str, value: datetime | None, default: datetime) -> datetime:
    """An instant from the query, in UTC. Raises ProblemError where UTC has no such year."""
    try:
        return default if value is None else read_instant(value)
    except ValueError as error:
        raise invalid_input(f"query/{name}", str(error)) from error


def read_span(from_: datetime | None, to: datetime | None) -> tuple[datetime, datetime]:
    """The span of time that a query asks for, in UTC; `from_` is in, `to` is out, and None is without bound.

    Raises ProblemError where it ends before it begins. One that ends where it begins holds nothing.
    """
    start, end = instant_parameter("from", from_, BEGINNING), instant_parameter("to", to, END)
    if start > end:
        raise invalid_input("query/to", "must not be before from")
    return start, end


def check_timezone(name: str) -> str:
    """The name of a time zone in the IANA database. Raises ProblemError."""
    if name not in _timezones():
        raise invalid_input("query/timezone", "must be a name in the IANA time zone database")
    return name


@functools.cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime", "Factory"})  # which are this machine's, and none
