"""The log, on standard error: the request log, and what the service and its libraries report.

Which requests are logged depends on the level. Probes are logged only if they fail, or at `debug`. Lines of requests
do not pass through structlog's processors, which take 6.6 µs per line: they are encoded as structs, many at a time
(1.5 µs per line). Fields that both kinds of lines have are named alike.
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

PIPE_BYTES = 4096  # up to which the lines of several processes never get mixed up in a pipe (PIPE_BUF on Linux)
FAILED = 500
_AUDITED = ("request_id", "customer_id", "key_id", "scopes", "by")  # what `telemetry.audit` says besides its text
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class RequestLine(Struct, omit_defaults=True, kw_only=True):
    """What is said of a request: nothing that its caller wrote, but two ids that were checked."""

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
    """Writes the lines of requests: from level `warning` on of those that failed, below `debug` of no probe else."""

    def __init__(self, stream: IO[bytes], encode: Callable[[list[RequestLine]], bytes], level: str) -> None:
        self._least = 0 if level in ("debug", "info") else FAILED
        self._least_of_probes = 0 if level == "debug" else FAILED
        self._stream = stream
        self._encode = encode

    def takes(self, status: int, is_probe: bool) -> bool:
        """Whether a request that was answered so has a line."""
        return status >= (self._least_of_probes if is_probe else self._least)

    def write(self, lines: list[RequestLine]) -> None:
        """Write the lines of requests that have ended."""
        with suppress(OSError):  # nobody listens, or the disk is full: no reason to fail a call
            for piece in _pieces(self._encode(lines)):
                self._stream.write(piece)
                self._stream.flush()


def _pieces(text: bytes) -> Iterator[bytes]:
    """Whole lines, as many at a time as PIPE_BYTES hold."""
    start = 0
    while len(text) - start > PIPE_BYTES:
        end = text.rindex(b"\n", start, start + PIPE_BYTES) + 1
        yield text[start:end]
        start = end
    yield text[start:]


def start_logs(settings: Settings) -> RequestLog:
    """Let all that this process logs go one way, in the form and from the level on that the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(settings.log_is_json, in_colour=handler.stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    encode = msgspec.json.Encoder().encode_lines if settings.log_is_json else _readable
    return RequestLog(sys.stderr.buffer, encode, settings.log_level)


def _formatter(for_programs: bool, in_colour: bool) -> ProcessorFormatter:
    # local variables, which hold what callers sent, are in neither form of a traceback
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
    """A message may quote what a caller wrote: control characters are shown, and not carried out."""
    event["event"] = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(event["event"]))
    return event


def _readable(lines: Sequence[RequestLine]) -> bytes:
    return "".join([f"{_readable_line(line)}\n" for line in lines]).encode()


def _readable_line(line: RequestLine) -> str:
    said = line.outcome or line.code or ""
    if line.outcomes:
        said = ", ".join(f"{count} {outcome}" for outcome, count in line.outcomes.items())
    ids = f"request {line.http_request_id}" + (f", trace {line.trace_id}" if line.trace_id else "")
    start = f"{line.timestamp.isoformat(timespec='microseconds')[:-6]}Z [{line.level:9}]"  # less the +00:00 of UTC
    return f"{start} {line.method} {line.route} {line.status} {said} in {line.duration_ms} ms, {ids}"
