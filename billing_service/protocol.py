"""HTTP as uvicorn speaks it, with a bound on the head of a request and every refusal in the one shape of problems."""

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from billing_client.wire import ProblemDetails
from billing_service.problems import problem

MAX_HEAD_BYTES = 64 * 1024


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuses what never becomes a request: 400 for what is no HTTP, 431 (RFC 6585) for a head without end."""

    _in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                detail = f"A request's line and headers may have {MAX_HEAD_BYTES} bytes at most."
                self._refuse(problem("header_too_large", detail))

    def send_400_response(self, msg: str) -> None:
        self._refuse(problem("validation_error", msg))

    def _refuse(self, details: ProblemDetails[str]) -> None:
        body = msgspec.json.encode(details)
        head = (
            f"HTTP/1.1 {details.status} {details.title}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
