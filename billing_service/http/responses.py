"""Answers in JSON."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


class JsonResponse(Response):
    """A struct (or what else msgspec writes) as JSON, with these headers besides.

    Its members are what Starlette's `Response.__call__` reads, whose `__init__` takes 0.6 µs longer to make them.
    """

    def __init__(
        self,
        content: object,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> None:
        self.status_code = status
        self.background = None
        self.body = _encode(content)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", media_type.encode())]
        if headers is not None:
            self.raw_headers += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
