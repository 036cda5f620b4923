"""Connections that break: the application is told, and nothing of them is kept."""

import gc
import socket
import struct
import threading
import time
import weakref
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from billing_service.http.connections.exchange import EXTENSION
from billing_service.http.connections.protocol import BoundedHttpProtocol
from tests.calls import read_answer, request_head
from tests.http.bare import BareApp, connect, read_answers, serving

PATIENCE_SECONDS = 20


class WaitingApp(BareApp):
    """Answers at `/wait` when the caller is gone, which it notes: nobody gets that answer."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.was_told, self.ended = threading.Event(), threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/wait":
            await super().__call__(scope, receive, send)
            return
        self.began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        self.was_told.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"x"})
        self.ended.set()


def reset(connection: socket.socket) -> None:
    """Close a connection as a process does that crashes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("behind", [0, 1, 3])
@pytest.mark.parametrize("before", [0, 2])
def test_the_request_at_work_is_told_that_its_caller_is_gone(before: int, behind: int) -> None:
    """Whatever was sent ahead behind it, and never begins."""
    app = WaitingApp()
    with serving(app) as served:
        connection = connect(served)
        heads = [request_head("GET", path) for path in (*["/"] * before, "/wait", *["/behind"] * behind)]
        connection.sendall(b"".join(heads))
        assert app.began.wait(PATIENCE_SECONDS)
        reset(connection)
        assert app.was_told.wait(PATIENCE_SECONDS)
        assert app.ended.wait(PATIENCE_SECONDS)
        with connect(served) as other:
            other.sendall(request_head("GET", "/after"))
            read_answer(other).require(200)
    assert [path for _, path in app.heads] == ["/"] * before + ["/after"]


class RememberingApp(WaitingApp):
    """Remembers each request for as long as somebody else keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.living: weakref.WeakSet[Any] = weakref.WeakSet()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.living.add(scope[EXTENSION])
        await super().__call__(scope, receive, send)


def test_an_answered_request_is_freed_without_a_collection() -> None:
    """Many sent ahead, on many connections, would fill the memory before one comes."""
    app = RememberingApp()
    gc.disable()
    try:
        with serving(app) as served, connect(served) as connection:
            connection.sendall(request_head("GET", "/") * 20)
            read_answers(connection, 20)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(app.living) > 1 and time.monotonic() < deadline:  # of the latest the connection keeps a little
                time.sleep(0.02)
            assert len(app.living) <= 1
    finally:
        gc.enable()


def test_nothing_is_kept_of_a_connection_that_broke_while_it_was_idle() -> None:
    """Not for as long as an idle one may last: whoever opens and breaks many would fill the memory."""
    living: weakref.WeakSet[BoundedHttpProtocol] = weakref.WeakSet()

    class Watched(BoundedHttpProtocol):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            living.add(self)

    with serving(BareApp(), Watched) as served:
        for _ in range(20):
            connection = connect(served)
            connection.sendall(request_head("GET", "/"))
            read_answer(connection).require(200)
            reset(connection)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while living and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.02)
        assert not living
