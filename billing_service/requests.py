"""What every endpoint reads from a request besides its fields: the body, the query, the ids in the path, the key."""

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints
from urllib.parse import parse_qsl, unquote
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta, Struct
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from billing_client.wire import FieldError, Id, readable
from billing_service.decoding import read_instant
from billing_service.problems import ProblemError, invalid, invalid_input, problem

Q = TypeVar("Q", bound=Struct)

_JSON = re.compile(r"application/(?:[\w.-]+\+)?json", re.IGNORECASE)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\";\s]+)", re.IGNORECASE)
_QUOTED_KEY = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')  # an sf-string, RFC 9651
_BARE_KEY = re.compile(r"[\x21\x23-\x7e][\x21-\x7e]*")
BEGINNING = datetime.min.replace(tzinfo=UTC)  # the database's -infinity
END = datetime.max.replace(tzinfo=UTC)  # the database's infinity
MAX_KEY_LENGTH = 255
Timezone = Annotated[
    str, Meta(description="A name in the IANA time zone database.", extra_json_schema={"format": "iana-timezone"})
]
DISCARD_SECONDS, DISCARD_LIMITS = 5, 8


class NoQuery(Struct):
    """The query of an address that takes none."""


class RawPath:
    """Routes on the path as it was sent, so that an id may hold an encoded slash; `IdConvertor` decodes the ids."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")
        await self._app(scope, receive, send)


class IdConvertor(Convertor[str]):
    """One segment of a path, percent-decoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        try:
            return msgspec.convert(unquote(value, errors="strict"), Id)
        except ValueError as error:
            raise invalid_input("path/id", readable(error)) from error

    def to_string(self, value: str) -> str:
        raise NotImplementedError("paths are written where they are sent")


register_url_convertor("id", IdConvertor())


async def read_json(request: Request) -> bytes:
    """The body of a JSON request, at most `max_body_bytes` of it. Raises ProblemError (413, 415)."""
    _check_content_type(request)
    limit: int = request.app.state.settings.max_body_bytes
    chunks, size = [], 0
    stream = request.stream()
    async for chunk in stream:
        size += len(chunk)
        if size > limit:
            await _discard(stream, limit)
            raise _too_large(limit)
        chunks.append(chunk)
    if size == 0:
        raise invalid_input("", "is empty, but must be a JSON object")
    return b"".join(chunks)


async def _discard(stream: AsyncIterator[bytes], limit: int) -> None:
    """Read on for a while: a connection closed under a sender loses the answer (RFC 9112, section 9.6)."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > DISCARD_LIMITS * limit:
                    return


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type")
    if content_type is not None:
        charset = _CHARSET.search(content_type)
        if not _JSON.fullmatch(content_type.partition(";")[0].strip()):
            raise ProblemError(problem("unsupported_media_type", "Send the body with Content-Type: application/json."))
        if charset and charset[1].lower() not in ("utf-8", "utf8"):
            raise ProblemError(problem("unsupported_media_type", "Send the JSON in UTF-8 (RFC 8259, section 8.1)."))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(problem("unsupported_media_type", "Send the body without a Content-Encoding."))


def _too_large(limit: int) -> ProblemError:
    details = problem("payload_too_large", f"A body may have {limit} bytes at most.")
    return ProblemError(details, {"Connection": "close"})


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`: a quoted string as the IETF's draft has it, or bare. Raises ProblemError."""
    values = request.headers.getlist("idempotency-key")
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


def _query_items(request: Request) -> list[tuple[str, str]]:
    try:
        query = request.scope["query_string"].decode("ascii")
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise invalid_input("query", "must hold at most 100 parameters in percent-encoded UTF-8") from error


class _Parameter(NamedTuple):
    """A parameter's name in Python and its type. Only numbers are read from text that is not theirs: msgspec would take
    a number for a time too."""

    field: str
    type: Any
    is_number: bool
    is_required: bool


@functools.cache
def _parameters(struct: type[Struct]) -> dict[str, _Parameter]:
    """The parameters of a query by the name on the wire."""
    hints = get_type_hints(struct, include_extras=True)
    numbers = (msgspec.inspect.IntType, msgspec.inspect.BoolType)
    return {
        field.encode_name: _Parameter(
            field.name,
            hints[field.name],
            isinstance(msgspec.inspect.type_info(hints[field.name]), numbers),
            field.required,
        )
        for field in msgspec.structs.fields(struct)
    }


def read_query(request: Request, struct: type[Q]) -> Q:
    """The query as a struct. Raises ProblemError for a parameter that is missing, unknown, repeated or not valid."""
    if struct is NoQuery and not request.scope["query_string"]:
        return struct()
    parameters = _parameters(struct)
    values: dict[str, Any] = {}
    errors = []
    items = _query_items(request)
    names = {name for name, _ in items}
    for name, text in items:
        try:
            if name not in parameters:
                raise ValueError(f"is not a parameter of this address; it takes {', '.join(parameters) or 'none'}")
            parameter = parameters[name]
            if parameter.field in values:
                raise ValueError("must be given once")
            values[parameter.field] = msgspec.convert(text, parameter.type, strict=not parameter.is_number)
        except ValueError as error:
            errors.append(FieldError(pointer=f"query/{name}", message=readable(error)))
    for name, parameter in parameters.items():
        if parameter.is_required and name not in names:
            errors.append(FieldError(pointer=f"query/{name}", message="is required"))
    if errors:
        raise ProblemError(invalid(errors))
    return struct(**values)


def instant_parameter(name: str, value: datetime | None, default: datetime) -> datetime:
    """An instant from the query, in UTC. Raises ProblemError where UTC has no such year."""
    try:
        return default if value is None else read_instant(value)
    except ValueError as error:
        raise invalid_input(f"query/{name}", str(error)) from error


def check_timezone(name: str) -> str:
    """The name of a time zone in the IANA database. Raises ProblemError."""
    if name not in _timezones():
        raise invalid_input("query/timezone", "must be a name in the IANA time zone database")
    return name


@functools.cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime", "Factory"})  # which are this machine's, and none
