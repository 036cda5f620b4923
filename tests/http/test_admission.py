"""Admission: the limits on requests and bodies in progress, and the response beyond them."""

import asyncio
import socket
from contextlib import ExitStack

import aiohttp
import asyncpg
import pytest

from billing_service.http.admission import Admission, BodyBudget
from billing_service.http.errors import ProblemError
from billing_service.settings import Settings
from tests.calls import exchange, get, given_customer, json_request, post, read_answer, request_head, usage
from tests.ledger.test_group_commit import until_a_write_waits, writes_held_up
from tests.services import running_service


def test_one_more_than_there_is_room_for_is_refused_and_takes_nothing() -> None:
    admission = Admission(2)
    with admission, admission:
        for _ in range(3):
            with pytest.raises(ProblemError), admission:
                pass
        assert admission.admitted == 2
    assert admission.admitted == 0


def test_who_waits_for_a_sender_makes_room() -> None:
    admission = Admission(1)
    with admission:
        with admission.while_receiving:
            assert admission.admitted == 0
            with admission:
                pass
        assert admission.admitted == 1
    assert admission.admitted == 0


def test_the_room_may_be_gone_when_a_body_is_there() -> None:
    admission = Admission(1)
    with pytest.raises(ProblemError), admission, admission.while_receiving:
        admission.__enter__()  # another request, which goes on
    assert admission.admitted == 1


def test_a_sender_that_breaks_off_is_told_that_and_not_of_the_room() -> None:
    admission = Admission(1)
    admission.__enter__()  # another request, which goes on
    with pytest.raises(ValueError, match="broken off"), admission.while_receiving, admission.while_receiving, admission:
        raise ValueError("broken off")
    assert admission.admitted == 1


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


class TestTheBudgetForBodies:
    def test_one_byte_more_than_there_is_room_for_is_refused(self) -> None:
        budget = BodyBudget(1_000_000)
        budget.charge("a", 500_000, 500_000)
        budget.charge("b", 500_000, 500_000)
        with pytest.raises(ProblemError):
            budget.charge("c", 100_000, 100_000)
        budget.release("c", 100_000)
        budget.release("a", 500_000)
        budget.charge("c", 100_000, 100_000)

    def test_small_bodies_are_always_taken(self) -> None:
        budget = BodyBudget(100_000)
        budget.charge("a", 100_000, 100_000)
        for _ in range(10):
            budget.charge("b", 60_000, 60_000)

    def test_one_caller_holds_half_of_it(self) -> None:
        budget = BodyBudget(1_000_000)
        budget.charge("a", 400_000, 400_000)
        with pytest.raises(ProblemError):
            budget.charge("a", 200_000, 200_000)
        budget.release("a", 200_000)
        budget.charge("b", 500_000, 500_000)

    def test_a_body_of_the_largest_size_is_taken_though_it_is_more_than_half(self) -> None:
        BodyBudget(1_000_000).charge("a", 900_000, 900_000)

    def test_nothing_is_left_of_callers_that_hold_nothing(self) -> None:
        budget = BodyBudget(1_000_000)
        for number in range(100):
            budget.charge(f"{number}", 10, 10)
            budget.release(f"{number}", 10)
        assert (budget.held, len(budget._held_by)) == (0, 0)


async def test_bodies_that_stop_short_leave_room_for_others(database_url: str) -> None:
    """Callers who each stop just short of the end of a large body are refused; small records go on, and so does all
    once they have gone."""
    room = Settings(database_url=database_url, max_body_bytes=1_000_000, max_receiving_bytes=2_000_000)
    with running_service(room) as service:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(service.url, connector=connector) as http:
            await given_customer(http)
            with ExitStack() as stack:
                for _ in range(8):
                    sender = stack.enter_context(socket.create_connection((service.host, service.port)))
                    head = request_head(
                        "POST", "/usage/batch", "Content-Type: application/json", "Content-Length: 900000"
                    )
                    await asyncio.to_thread(sender.sendall, head + b" " * 899_000)
                await asyncio.sleep(0.5)
                (await post(http, "/usage", usage(eventId="small"))).require(201)
                batch = {"records": [usage(eventId=f"{n}", service="s" * 200) for n in range(1_000)]}
                refused = await post(http, "/usage/batch", batch)
                assert refused.problem("unavailable")["status"] == 503
                assert refused.headers["Retry-After"] == "1"
            for _ in range(100):
                answer = await post(http, "/usage/batch", batch)
                if answer.status == 200:
                    break
                await asyncio.sleep(0.1)
            assert answer.status == 200
