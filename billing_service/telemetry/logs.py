"""The log, on standard error: the request log, and what the service and its libraries report.

The request log does not use structlog, whose processors take 6.6 µs per line. Its lines are structs that are encoded
many at a time (1.5 µs per line). Fields that both kinds of lines have are named alike.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import IO, Any, Literal

import msgspec
import structlog
from msgspec import Struct
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from billing_service.settings import Settings

PIPE_BYTES = 4096  # PIPE_BUF on Linux: writes of up to this size are atomic, so lines of several processes stay whole
FAILED = 500  # the lowest status that counts as a failure of the service
_AUDITED = ("request_id", "customer_id", "key_id", "scopes", "by", "address")  # the extra fields of `telemetry.audit`
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class RequestLine(Struct, omit_defaults=True, kw_only=True):
    """A line of the request log. Of what the caller sent it holds only two validated ids."""

    timestamp: datetime
    level: Literal["info", "error"]
    event: str
    method: str
    route: str
    status: int
    duration_ms: float
    outcome: str | None = None
    outcomes: dict[str, int] | None = None
    code: str | None = None
    key_id: str | None = None
    http_request_id: str
    trace_id: str | None = None


class RequestLog:
    """Writes the request log.

    At `debug` and `info` every request is logged, at `warning` and `error` only those that failed with a 5xx status.
    Probes are logged only when they fail, or at `debug`.
    """

    def __init__(self, stream: IO[bytes], encode: Callable[[list[RequestLine]], bytes], level: str) -> None:
        """Create the log.

        Args:
            stream: Where lines are written.
            encode: Turns lines into bytes, each line with its line break.
            level: The log level: debug, info, warning or error.
        """
        self._min_status = 0 if level in ("debug", "info") else FAILED
        self._min_probe_status = 0 if level == "debug" else FAILED
        self._stream = stream
        self._encode = encode

    def takes(self, status: int, is_probe: bool) -> bool:
        """Whether a request that was answered with this status is logged."""
        return status >= (self._min_probe_status if is_probe else self._min_status)

    def write(self, lines: list[RequestLine]) -> None:
        """Write lines. If that fails they are lost."""
        with suppress(OSError):  # a closed pipe or a full disk must not fail a call
            for piece in _pieces(self._encode(lines)):
                self._stream.write(piece)
                self._stream.flush()


def _pieces(text: bytes) -> Iterator[bytes]:
    """Split text into pieces of whole lines, each at most PIPE_BYTES long."""
    start = 0
    while len(text) - start > PIPE_BYTES:
        end = text.rindex(b"\n", start, start + PIPE_BYTES) + 1
        yield text[start:end]
        start = end
    yield text[start:]


def start_logs(settings: Settings) -> RequestLog:
    """Set up logging for this process as the settings say, and return its request log."""
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(settings.log_is_json, in_colour=handler.stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    encode = msgspec.json.Encoder().encode_lines if settings.log_is_json else _readable
    return RequestLog(sys.stderr.buffer, encode, settings.log_level)


def _formatter(for_programs: bool, in_colour: bool) -> ProcessorFormatter:
    # Neither form of a traceback shows local variables: they may hold what a caller sent.
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if for_programs
        else [
            _in_one_line,
            structlog.dev.ConsoleRenderer(colors=in_colour, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    return ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(_AUDITED),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _in_one_line(_: object, __: str, event: EventDict) -> EventDict:
    """Escape control characters in the message, which may quote a caller, so that a terminal does not act on them."""
    event["event"] = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(event["event"]))
    return event


def _readable(lines: Sequence[RequestLine]) -> bytes:
    return "".join([f"{_readable_line(line)}\n" for line in lines]).encode()


def _readable_line(line: RequestLine) -> str:
    result = line.outcome or line.code or ""
    if line.outcomes:
        result = ", ".join(f"{count} {outcome}" for outcome, count in line.outcomes.items())
    ids = f"request {line.http_request_id}" + (f", trace {line.trace_id}" if line.trace_id else "")
    start = f"{line.timestamp.isoformat(timespec='microseconds')[:-6]}Z [{line.level:9}]"  # without the +00:00 of UTC
    return f"{start} {line.method} {line.route} {line.status} {result} in {line.duration_ms} ms, {ids}"
