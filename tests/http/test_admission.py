"""How many requests are worked on at once, and what is told to one more."""

import asyncio
import socket

import aiohttp
import asyncpg
import pytest

from billing_service.http.admission import Admission
from billing_service.http.errors import ProblemError
from billing_service.settings import Settings
from tests.calls import exchange, get, given_customer, json_request, post, read_answer, request_head, usage
from tests.ledger.test_group_commit import until_a_write_waits, writes_held_up
from tests.services import running_service


def test_one_more_than_there_is_room_for_is_refused_and_takes_nothing() -> None:
    slots = Admission(2)
    with slots, slots:
        for _ in range(3):
            with pytest.raises(ProblemError), slots:
                pass
        assert slots.admitted == 2
    assert slots.admitted == 0


def test_who_waits_for_a_sender_makes_room() -> None:
    slots = Admission(1)
    with slots:
        with slots.while_receiving:
            assert slots.admitted == 0
            with slots:
                pass
        assert slots.admitted == 1
    assert slots.admitted == 0


def test_the_room_may_be_gone_when_a_body_is_there() -> None:
    slots = Admission(1)
    with pytest.raises(ProblemError), slots, slots.while_receiving:
        slots.__enter__()  # another request, which goes on
    assert slots.admitted == 1


def test_a_sender_that_breaks_off_is_told_that_and_not_of_the_room() -> None:
    slots = Admission(1)
    slots.__enter__()  # another request, which goes on
    with pytest.raises(ValueError, match="broken off"), slots.while_receiving, slots.while_receiving, slots:
        raise ValueError("broken off")
    assert slots.admitted == 1


async def test_a_service_without_room_says_so_at_once_and_still_says_how_it_is(
    database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with running_service(Settings(database_url=database_url, max_requests=2)) as service:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(service.url, connector=connector) as http:
            await given_customer(http)
            async with writes_held_up(connection):
                calls = [asyncio.create_task(post(http, "/usage", usage(eventId=f"{n}"))) for n in range(2)]
                await until_a_write_waits(database_url)
                async with asyncio.timeout(60):
                    while (await get(http, "/customers")).status == 200:
                        pass  # the second is still on its way
                for answer in (await get(http, "/customers"), await post(http, "/usage", usage())):
                    assert "overloaded" in answer.problem("unavailable")["detail"]
                    assert answer.headers["Retry-After"] == "1"
                for path in ("/healthz", "/readyz"):
                    (await get(http, path)).require(200)
            for call in calls:
                (await call).require(201)
            (await get(http, "/customers")).require(200)


def test_senders_that_are_slow_take_no_room(database_url: str) -> None:
    with running_service(Settings(database_url=database_url, max_requests=1)) as service:
        body = b'{"name": "Acme"}'
        slow = [socket.create_connection((service.host, service.port), timeout=30) for _ in range(20)]
        try:
            for connection in slow:
                connection.sendall(json_request("/customers", body)[:-1])
            exchange(service, request_head("GET", "/customers")).require(200)
            for connection in slow:
                connection.sendall(body[-1:])
                read_answer(connection).require(201)
        finally:
            for connection in slow:
                connection.close()
