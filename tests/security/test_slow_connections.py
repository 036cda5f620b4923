"""Connections that do nothing, or as little as they can, keep nobody out."""

import asyncio
import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest

from billing_service.commands.serve import MAX_CONNECTIONS
from tests.calls import get, given_customer, json_request, post, request_head, usage
from tests.services import ServeProcess, serve_process

EACH = 200
RECORD = json_request("/usage", json.dumps(usage()).encode())
KINDS = {
    "nothing": b"",
    "part of a head": request_head("GET", "/customers")[:-2],
    "part of a body": RECORD[:-5],
    "a body that was only announced": RECORD[: RECORD.index(b"\r\n\r\n") + 4],
}


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[ServeProcess]:
    with serve_process(tmp_path, database_url, environment={"BILLING_MAX_REQUESTS": "100"}) as served:
        yield served


async def test_hundreds_of_slow_connections_keep_nobody_out(served: ServeProcess) -> None:
    with ExitStack() as stack:
        slow: dict[str, list[socket.socket]] = {kind: [] for kind in KINDS}
        for kind, sent in KINDS.items():
            for _ in range(EACH):
                connection = stack.enter_context(socket.create_connection((served.host, served.port), timeout=30))
                connection.sendall(sent)
                slow[kind].append(connection)
        async with asyncio.timeout(120), aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
            for number, connection in enumerate(slow["part of a head"]):
                connection.sendall(b"a: b\r\n")  # what keeps a "slow loris" alive
                (await post(http, "/usage", usage(eventId=f"{number}"))).require(201)
        async with asyncio.timeout(120), aiohttp.ClientSession(served.url) as newcomer:
            (await get(newcomer, "/readyz")).require(200)


def test_the_service_may_hold_as_many_connections_as_the_system_grants(served: ServeProcess) -> None:
    soft, hard = psutil.Process(served.service.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    granted = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == granted
    assert soft >= min(MAX_CONNECTIONS, granted)
