"""Answers of a broken or hostile peer: none is taken for what was asked for, and none keeps a caller for ever."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest

from billing_client import (
    BillingError,
    BillingSystemClient,
    DeadlineExceededError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
    Usage,
)
from billing_client._calls import ApiCall
from billing_client._responses import MOST_EMPTY_PAGES, Progress
from tests.client.answers import CUSTOMER, STORED, USAGE, client_of, json_answer, problem_body
from tests.client.misbehaving import Step, answer, misbehaving, raw

Ask = Callable[[BillingSystemClient], Awaitable[object]]
ID = STORED["requestId"]
TOTAL = {"records": 1, "units": "1", "amount": "1"}
FRAME = {"from": None, "to": None, "timezone": "UTC", "currency": "EUR"}
SUMMARY: dict[str, Any] = FRAME | {"groups": [], "total": TOTAL, "nextCursor": None}
NOTHING = {"records": 0, "amount": "0"}
STATEMENT: dict[str, Any] = {
    "customerId": "acme",
    "customerName": "Acme",
    "month": "2026-01",
    "timezone": "UTC",
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-02-01T00:00:00Z",
    "currency": "EUR",
    "rounding": {"mode": "half_up", "minorUnit": 2},
    "status": "issued",
    "number": 1,
    "asOf": "2026-03-01T00:00:00Z",
    "digest": "0" * 64,
    "digestKind": "merkle.v1",
    "lines": [],
    "total": NOTHING | {"rounded": "0.00"},
    "late": [],
    "voided": {"data": [], "more": False, "total": NOTHING},
}
ISSUED = {name: STATEMENT[name] for name in ("customerId", "number", "month", "timezone", "digest", "total")} | {
    "issuedAt": "2026-03-01T00:00:00Z",
    "issuedBy": None,
}
PROOF: dict[str, Any] = {
    "digest": "0" * 64,
    "contentHash": "0" * 64,
    "record": STORED,
    "piece": {"start": "2026-01-01T00:00:00Z", "records": 1, "index": 0, "path": []},
    "pieces": 1,
    "index": 0,
    "path": [],
}
VOIDED = STORED | {"voidReason": "test", "voidedBy": "anonymous", "voidedAt": "2026-02-01T00:00:00Z"}


async def all_of(items: AsyncIterator[object]) -> list[object]:
    return [item async for item in items]


def page(*data: object, cursor: str | None = None) -> dict[str, Any]:
    return {"data": [*data], "nextCursor": cursor}


def ndjson(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def stream(body: bytes, status: int = 200, **headers: str) -> Step:
    return answer(status, body, **({"Content_Type": "application/x-ndjson"} | headers))


READS: dict[str, tuple[Ask, Step]] = {
    "a customer": (lambda c: c.get_customer(customer_id="other"), json_answer(200, CUSTOMER)),
    "a new customer": (lambda c: c.create_customer(customer_id="other", name="n"), json_answer(201, CUSTOMER)),
    "a customer's name": (lambda c: c.update_customer(customer_id="other", name="n"), json_answer(200, CUSTOMER)),
    "a record": (lambda c: c.get_usage(customer_id="other", request_id=ID), json_answer(200, STORED)),
    "a list": (lambda c: all_of(c.usage(customer_id="other")), json_answer(200, page(STORED))),
    "a service": (lambda c: all_of(c.usage(customer_id="acme", service="x")), json_answer(200, page(STORED))),
    "a dimension": (
        lambda c: all_of(c.usage(customer_id="acme", dimensions={"a": "b"})),
        json_answer(200, page(STORED)),
    ),
    "an export": (lambda c: all_of(c.export_usage(customer_id="other")), stream(ndjson(STORED))),
    "a summary": (lambda c: c.summary(customer_id="acme", timezone="Asia/Tokyo"), json_answer(200, SUMMARY)),
    "summaries": (
        lambda c: all_of(c.summaries(timezone="Asia/Tokyo")),
        json_answer(200, FRAME | page({"customerId": "a", "groups": [], "total": TOTAL})),
    ),
    "a statement": (lambda c: c.statement(customer_id="other", month="2026-01"), json_answer(200, STATEMENT)),
    "a month": (lambda c: c.statement(customer_id="acme", month="2026-02"), json_answer(200, STATEMENT)),
    "a new statement": (
        lambda c: c.issue_statement(customer_id="acme", month="2026-01"),
        json_answer(201, STATEMENT | {"status": "provisional"}),
    ),
    "an issued statement": (
        lambda c: c.issued_statement(customer_id="acme", statement=2),
        json_answer(200, STATEMENT),
    ),
    "no statement": (lambda c: c.issued_statement(customer_id="acme", statement=1), answer(200, b"<html>")),
    "issued statements": (
        lambda c: all_of(c.issued_statements(customer_id="other")),
        json_answer(200, page(ISSUED)),
    ),
    "a proof": (
        lambda c: c.usage_proof(customer_id="acme", request_id="cd" * 32, digest="0" * 64),
        json_answer(200, PROOF),
    ),
    "a digest": (
        lambda c: c.usage_proof(customer_id="acme", request_id=ID, digest="1" * 64),
        json_answer(200, PROOF),
    ),
    "a void": (
        lambda c: c.void_usage(customer_id="other", request_id=ID, reason="r"),
        json_answer(200, VOIDED),
    ),
    "a void of nothing": (
        lambda c: c.void_usage(customer_id="acme", request_id=ID, reason="r"),
        json_answer(200, VOIDED | {"voidedAt": None}),
    ),
    "other units": (
        lambda c: c.record_usage(**USAGE),
        json_answer(201, STORED | {"unitsConsumed": "99", "amount": "1.98"}),
    ),
    "another amount": (lambda c: c.record_usage(**USAGE), json_answer(201, STORED | {"amount": "3"})),
    "a duplicate of other units": (
        lambda c: c.record_usage(**USAGE),
        json_answer(409, problem_body(409, "duplicate_record", existing=STORED | {"unitsConsumed": "99"})),
    ),
}


@pytest.mark.parametrize(("ask", "step"), READS.values(), ids=READS.keys())
async def test_an_answer_about_something_else_is_none(ask: Ask, step: Step) -> None:
    async with misbehaving(step) as server, client_of(server) as client:
        with pytest.raises(UnexpectedResponseError):
            await ask(client)


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-Infinity", "1e999999999", "1e-999999999"])
async def test_what_is_no_amount_is_refused(amount: str) -> None:
    """`1e999999999` is an exact decimal, but to print it without an exponent takes a gigabyte."""
    record, total = STORED | {"amount": amount}, TOTAL | {"amount": amount}
    async with (
        misbehaving(
            json_answer(201, record),
            json_answer(200, page(record)),
            stream(ndjson(record)),
            json_answer(200, SUMMARY | {"total": total}),
            json_answer(200, STATEMENT | {"total": NOTHING | {"rounded": amount}}),
        ) as server,
        client_of(server) as client,
    ):
        for asked in (
            client.record_usage(**USAGE),
            all_of(client.usage(customer_id="acme")),
            all_of(client.export_usage()),
            client.summary(customer_id="acme"),
            client.statement(customer_id="acme", month="2026-01"),
        ):
            with pytest.raises(UnexpectedResponseError):
                await asked
    assert len(server.requests) == 5


LISTS: dict[str, tuple[Ask, dict[str, Any]]] = {
    "usage": (lambda c: all_of(c.usage(customer_id="acme")), page(STORED)),
    "summary": (lambda c: c.summary(customer_id="acme"), SUMMARY | {"groups": [TOTAL]}),
    "summaries": (lambda c: all_of(c.summaries()), FRAME | page({"customerId": "a", "groups": [], "total": TOTAL})),
    "customers": (lambda c: all_of(c.customers()), page(CUSTOMER)),
    "issued statements": (lambda c: all_of(c.issued_statements(customer_id="acme")), page(ISSUED)),
    "statements": (lambda c: all_of(c.issue_statements(month="2026-01")), {
        "issued": [ISSUED], "unchanged": 0, "preparing": None, "nextCursor": None,
    }),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "body"), LISTS.values(), ids=LISTS.keys())
async def test_a_list_that_leads_in_a_circle_ends(ask: Ask, body: dict[str, Any]) -> None:
    steps = [json_answer(200, body | {"nextCursor": cursor}) for cursor in "abcdefg" * 5]
    async with misbehaving(*steps) as server, client_of(server) as client:
        with pytest.raises(UnexpectedResponseError, match="leads back to an earlier page"):
            await ask(client)
    assert len(server.requests) < 35


def test_a_list_of_empty_pages_ends() -> None:
    progress, call = Progress(), ApiCall("GET", "/customers")
    for number in range(MOST_EMPTY_PAGES):
        progress.require([], f"a{number}", call)
    progress.require([CUSTOMER], "b", call)
    for number in range(MOST_EMPTY_PAGES):
        progress.require([], f"c{number}", call)
    with pytest.raises(UnexpectedResponseError, match="goes on without an item"):
        progress.require([], "d", call)


LINES = ndjson(*[STORED | {"recordedBy": f"bk_{number:016x}"} for number in range(50)])
CUT = gzip.compress(LINES)[:-50]
NO_EXPORTS = {
    "a page of a portal": answer(200, b"<html>\n", Content_Type="text/html"),
    "JSON": answer(200, LINES),
    "nothing": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a part": stream(LINES, 206),
    "a stream whose end nobody can tell": raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n" + LINES),
    "gzip cut off": stream(CUT, Content_Encoding="gzip"),
    "gzip with more behind it": stream(gzip.compress(LINES) * 2, Content_Encoding="gzip"),
    "no gzip": stream(LINES, Content_Encoding="gzip"),
    "an unknown encoding": stream(LINES, Content_Encoding="br"),
    "a line cut off": stream(LINES[:-1]),
}


@pytest.mark.parametrize("step", NO_EXPORTS.values(), ids=NO_EXPORTS.keys())
async def test_what_is_no_whole_export_is_none(step: Step) -> None:
    async with misbehaving(step) as server, client_of(server) as client:
        with pytest.raises((UnexpectedResponseError, TransportError)):
            await all_of(client.export_lines())


async def test_a_compressed_export_is_read_whole() -> None:
    async with (
        misbehaving(stream(gzip.compress(LINES), Content_Encoding="gzip")) as server,
        client_of(server) as client,
    ):
        assert b"".join([line async for line in client.export_lines()]) == LINES
    assert server.requests[0].header("Accept-Encoding") == "gzip"


async def test_events_that_are_none_are_told_instead_of_waited_for() -> None:
    async with misbehaving(answer(200, b"<html>", Content_Type="text/html")) as server, client_of(server) as client:
        async with asyncio.timeout(10):
            with pytest.raises(UnexpectedResponseError, match="not a stream of text/event-stream"):
                await all_of(client.events())


BATCHES: dict[str, dict[str, Any]] = {
    "other units": {"outcome": "recorded", "record": STORED | {"unitsConsumed": "99", "amount": "1.98"}},
    "a signaling NaN": {"outcome": "recorded", "record": STORED | {"unitsConsumed": "sNaN"}},
    "recordable": {"outcome": "recordable", "record": STORED},
    "a duplicate of nothing": {"outcome": "duplicate", "problem": problem_body(409, "duplicate_record")},
    "a duplicate of other units": {
        "outcome": "duplicate",
        "problem": problem_body(409, "duplicate_record", existing=STORED | {"unitsConsumed": "99"}),
    },
    "recorded and refused": {"outcome": "recorded", "problem": problem_body(400, "validation_error")},
    "refused with success": {"outcome": "rejected", "problem": problem_body(200, "validation_error")},
}


@pytest.mark.parametrize("result", BATCHES.values(), ids=BATCHES.keys())
async def test_a_result_that_cannot_be_is_no_result(result: dict[str, Any]) -> None:
    async with misbehaving(json_answer(200, {"results": [result]})) as server, client_of(server) as client:
        with pytest.raises(UnexpectedResponseError):
            await all_of(client.record_usages([Usage(**USAGE)]))


async def test_a_statement_that_is_never_prepared_is_waited_for_until_the_deadline() -> None:
    preparing = json_answer(202, {"records": 10, "prepared": 1}, Retry_After="0")
    async with misbehaving(preparing) as server, client_of(server, timeout=1.0) as client:
        with pytest.raises(DeadlineExceededError, match="1 of 10 records"):
            await client.statement(customer_id="acme", month="2026-01")
    assert len(server.requests) <= 11  # not as fast as it can


async def test_the_date_of_retry_after_is_by_the_clock_of_the_service() -> None:
    """A client whose clock is wrong waits as long as one whose clock is right."""
    now = int(time.time()) - 10 * 86_400
    busy = answer(503, Date=formatdate(now, usegmt=True), Retry_After=formatdate(now + 7, usegmt=True))
    async with misbehaving(busy) as server, client_of(server, timeout=5.0) as client:
        with pytest.raises(UnavailableError) as caught:  # the deadline comes first
            await client.record_usage(**USAGE)
    assert caught.value.retry_after == 7


async def test_no_key_goes_where_a_redirect_leads() -> None:
    async with misbehaving(json_answer(200, CUSTOMER)) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            there = answer(status, Location=f"{elsewhere.url}/")
            async with misbehaving(there) as server, client_of(server, api_key="secret") as client:
                with pytest.raises(BillingError):
                    await client.get_customer(customer_id="acme")
    assert elsewhere.requests == []
