"""Refused usage: why something was not billed."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, get_args
from uuid import UUID

from msgspec import Meta, Struct
from starlette.responses import Response

from billing_client.contract.problems import KINDS
from billing_client.contract.query_parameters import RefusalCode
from billing_client.contract.request_parsing import BEGINNING, END
from billing_client.contract.wire import Refusal, RefusalCount
from billing_service.console.formats import path
from billing_service.console.pages import View, page_operation, show, zone_of
from billing_service.database.pool import Connection
from billing_service.http.cursors import read_cursor, write_cursor
from billing_service.http.errors import invalid_input
from billing_service.http.requests import ApiRequest
from billing_service.ledger import refusals
from billing_service.ledger.refusals import LAST, Filter

PAGE = 50
UNDER_ONE_ID = 20
COUNTED = timedelta(days=7)
CODES: tuple[str, ...] = get_args(RefusalCode)
_KEY = re.compile(r"bk_[0-9a-f]{16}")
_REQUEST_ID = re.compile(r"[0-9a-f]{64}")


class _Position(Struct, array_like=True, frozen=True):
    refusal_id: Annotated[bytes, Meta(min_length=16, max_length=16)]


async def list_refusals(request: ApiRequest, _: None) -> Response:
    """List what was refused, the latest first."""
    zone, now, asked = zone_of(request), request.services.clock.now(), request.query_params
    wanted = _filter(request)
    scope, cursor = repr(("console refusals", wanted)), asked.get("cursor")
    before = UUID(bytes=read_cursor(scope, cursor, _Position).refusal_id) if cursor else LAST
    async with request.services.database.read_connection() as connection:
        found = await refusals.list_refusals(connection, wanted, before, PAGE + 1)
        counts = await recent_counts(connection, now, wanted.customer_id)
    following = None
    if len(found) > PAGE:
        following = write_cursor(scope, _Position(UUID(found[PAGE - 1].id).bytes))
    return show(
        request,
        "refusals",
        View(zone, now),
        refusals=found[:PAGE],
        counts=counts,
        days=COUNTED.days,
        reasons=REASONS,
        next_cursor=following,
        is_first=not cursor,
    )


REASONS = {code: KINDS[code].title for code in CODES}


def _filter(request: ApiRequest) -> Filter:
    asked = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
    if asked.get("code", CODES[0]) not in CODES:
        raise invalid_input("query/code", f"must be one of {', '.join(CODES)}")
    if not _KEY.fullmatch(asked.get("key", f"bk_{'0' * 16}")):
        raise invalid_input("query/key", "must be bk_ and 16 lower-case hex digits: a key without its secret")
    if not _REQUEST_ID.fullmatch(asked.get("request", "0" * 64)):
        raise invalid_input("query/request", "must be 64 lower-case hex digits")
    customer_id = asked.get("customer")
    if customer_id is not None:
        request.caller.require_reach(customer_id)
    return Filter(
        start=BEGINNING,
        end=END,
        code=asked.get("code"),
        key=asked.get("key"),
        request_id=bytes.fromhex(asked["request"]) if "request" in asked else None,
        event_id=asked.get("event"),
        customer_id=customer_id or request.caller.customer_id,
    )


async def recent_counts(connection: Connection, now: datetime, customer_id: str | None) -> list[RefusalCount]:
    """How many refusals there were lately, by key and reason. Raises what asyncpg raises."""
    return await refusals.count_refusals(connection, now - COUNTED, END, customer_id)


async def refused_under(
    connection: Connection, customer_id: str | None, request_id: bytes | None = None, event_id: str | None = None
) -> list[Refusal]:
    """The latest refusals under a request id or an event id. Raises what asyncpg raises.

    Args:
        connection: Where to read.
        customer_id: Only this customer's; None for all.
        request_id: The request id, 32 bytes; None for any.
        event_id: The event id; None for any.
    """
    wanted = Filter(BEGINNING, END, request_id=request_id, event_id=event_id, customer_id=customer_id)
    return await refusals.list_refusals(connection, wanted, LAST, UNDER_ONE_ID)


def total_of(counts: Iterable[RefusalCount]) -> int:
    """How many refusals these are in all."""
    return sum(count.refusals for count in counts)


OPERATIONS = [
    page_operation("GET", path("refusals"), list_refusals, "usage:read"),
]
