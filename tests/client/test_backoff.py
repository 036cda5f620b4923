"""When a call is made again, and after how long."""

import asyncio
import logging
import time
from email.utils import formatdate

import pytest

from billing_client import BillingError, UnavailableError, _retries
from billing_client._calls import ApiCall
from billing_client._retries import RetryableError
from tests.client.answers import USAGE, client_of, problem, recorded
from tests.client.misbehaving import Step, answer, disconnect, misbehaving

RETRIED = (408, 429, 502, 503, 504)
FINAL = (301, 302, 400, 401, 403, 404, 405, 409, 413, 415, 422, 500, 501)


def waits(count: int, asked_for: float = 0.0) -> list[float]:
    """The first waits of one call, when the service asks for this long each time."""
    generator = _retries.waits()
    generator.send(None)
    error = BillingError("busy")
    error.retry_after = asked_for
    again = RetryableError(ApiCall("GET", "/"), error)
    return [generator.send(again) for _ in range(count)]


@pytest.mark.parametrize("status", RETRIED)
async def test_a_service_that_may_recover_is_asked_again(status: int) -> None:
    scripts: list[Step] = [problem(status, "busy"), answer(status, b"<html>"), recorded()]
    async with misbehaving(*scripts) as server, client_of(server) as client:
        assert (await client.record_usage(**USAGE)).outcome == "recorded"
    assert len({(request.header("Idempotency-Key"), request.body) for request in server.requests}) == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", FINAL)
async def test_a_refusal_is_final(status: int) -> None:
    for refusal in (problem(status, "refused"), answer(status, b"<html>", Retry_After="0")):
        async with misbehaving(refusal, recorded()) as server, client_of(server) as client:
            with pytest.raises(BillingError) as caught:
                await client.record_usage(**USAGE)
        assert (caught.value.status, caught.value.attempts, len(server.requests)) == (status, 1, 1)


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_no_more_attempts_are_made_than_allowed(attempts: int) -> None:
    for failing in (problem(503, "unavailable"), disconnect):
        async with misbehaving(failing) as server, client_of(server, max_attempts=attempts) as client:
            with pytest.raises(BillingError) as caught:
                await client.record_usage(**USAGE)
        assert caught.value.attempts == len(server.requests) == attempts


@pytest.mark.parametrize("status", [429, 503])
async def test_the_seconds_of_retry_after_are_waited_for(status: int) -> None:
    async with misbehaving(problem(status, "busy", retry_after="1"), recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
    first, second = server.requests
    assert second.at - first.at >= 1


async def test_the_date_of_retry_after_is_waited_for() -> None:
    date = int(time.time()) + 2
    busy = problem(503, "unavailable", retry_after=formatdate(date, usegmt=True))
    async with misbehaving(busy, recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
    assert server.requests[1].at >= date


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "1.5e3",
        "٣",
        "0",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 -0000",
        "Wed, 99 Oct 2015 07:28:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    ],
)
async def test_a_retry_after_that_asks_for_nothing_is_no_wait(value: str) -> None:
    busy = answer(503, Retry_After=value)
    async with misbehaving(busy, recorded()) as server, client_of(server) as client:
        assert (await client.record_usage(**USAGE)).outcome == "recorded"


async def test_a_retry_after_of_any_size_is_understood() -> None:
    async with misbehaving(answer(503, Retry_After="9" * 400)) as server, client_of(server) as client:
        with pytest.raises(UnavailableError):
            await client.record_usage(**USAGE)
    assert len(server.requests) == 1


def testwaits_are_spread_over_the_whole_range() -> None:
    firsts = sorted(waits(1)[0] for _ in range(2_000))
    assert firsts[0] >= 0
    assert firsts[-1] <= 0.1
    for tenth in range(10):
        share = sum(tenth / 100 <= wait < (tenth + 1) / 100 for wait in firsts) / len(firsts)
        assert 0.05 < share < 0.15


def testwaits_grow_and_stay_below_ten_seconds() -> None:
    calls = [waits(12) for _ in range(500)]
    longest = [max(call[attempt] for call in calls) for attempt in range(12)]
    limits = [min(0.1 * 2**attempt, 10) for attempt in range(12)]
    for wait, limit in zip(longest, limits, strict=True):
        assert 0.9 * limit < wait <= limit


def testwaits_never_fall_short_of_what_the_service_asks_for() -> None:
    asked_for = [waits(1, asked_for=3)[0] for _ in range(500)]
    assert min(asked_for) >= 3
    assert max(asked_for) <= 3.1
    assert len(set(asked_for)) > 400


async def test_calls_that_fail_together_come_back_apart() -> None:
    together = 40
    scripts = [problem(503, "unavailable")] * together + [recorded()]
    async with misbehaving(*scripts) as server, client_of(server) as client:
        await asyncio.gather(*(client.record_usage(**USAGE) for _ in range(together)))
    again = [request.at for request in server.requests[together:]]
    assert len(again) == together
    assert max(again) - min(again) > 0.05


async def test_nothing_of_a_call_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scripts = [disconnect, problem(503, "unavailable"), problem(401, "unauthenticated")]
    async with misbehaving(*scripts) as server, client_of(server, api_key="s3cret") as client:
        with pytest.raises(BillingError):
            await client.record_usage(**USAGE, idempotency_key="call-1")
    assert len(server.requests) == 3
    assert [record for record in caplog.records if record.name.startswith(("backoff", "billing_client"))] == []
    for private in ("acme", "event-1", "call-1", "s3cret"):
        assert private not in caplog.text
