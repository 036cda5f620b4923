"""The lines of a statement: in order, exact, and made and encoded in slices, so that others have their turn."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import TypeVar

import msgspec

from billing_client.contract.decimals import plain
from billing_client.contract.statements.structs import (
    Rounding,
    Statement,
    StatementLine,
    StatementTotal,
    StatementVoids,
    VoidedTotal,
)
from billing_client.contract.wire import VoidedUsage
from billing_service.ledger.loop_slices import MOST, PASSES
from billing_service.ledger.statements.lines import LineKey, Lines, statement_lines
from billing_service.ledger.statements.months import encode_statement

T = TypeVar("T")
NOW = datetime(2026, 2, 1, tzinfo=UTC)


def many_lines(count: int) -> Lines:
    """Lines in any order: services of which one begins the other, prices of all lengths, and credits."""
    prices = [plain(Decimal(n) / 1000) for n in range(count // 4)] + ["99999999999999999999", "0.000000000000000001"]
    keys = [
        LineKey(service, price, is_credit)
        for service in ("a", "a b")
        for price in prices
        for is_credit in (False, True)
    ]
    random.shuffle(keys)
    return {key: (1, Decimal("-1.5") if key.is_credit else Decimal("1.5")) for key in keys}


async def turns_during(work: Callable[[], Awaitable[T]]) -> tuple[T, int]:
    """What work gives, and how many turns others had meanwhile."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    before = turns
    result = await work()
    waiting.cancel()
    return result, turns - before


async def test_lines_are_in_the_order_of_service_and_price() -> None:
    lines, turns = await turns_during(lambda: statement_lines(many_lines(20_000), credits_=False))
    places = [(line.service, Decimal(line.price_per_unit)) for line in lines]
    assert len(places) == 10_004
    assert all(one < other for one, other in pairwise(places))
    assert turns >= len(lines) // MOST * PASSES


async def test_a_long_statement_is_encoded_as_it_would_be_at_once() -> None:
    lines = await statement_lines(many_lines(4_000), credits_=False)
    statements = [
        a_statement(lines, [], [], 1),
        a_statement([], lines, [], 1),
        a_statement([], [], lines, 1),
        a_statement([], [], [], 2_000),
        a_statement([], [], [], 0),
    ]
    for long in statements:
        encoded, turns = await turns_during(lambda long=long: encode_statement(long))  # type: ignore[misc]  # a lambda with a default has no type
        assert encoded == msgspec.json.encode(long)
        items = max(len(long.lines), len(long.credits), len(long.late), len(long.voided.data))
        assert turns >= items // MOST * PASSES


def a_statement(
    lines: list[StatementLine[str]], credits_: list[StatementLine[str]], late: list[StatementLine[str]], voided: int
) -> Statement[str]:
    return Statement(
        customer_id="acme",
        customer_name="Acme",
        month="2026-01",
        timezone="UTC",
        from_=datetime(2026, 1, 1, tzinfo=UTC),
        to=NOW,
        currency="USD",
        rounding=Rounding(mode="half_up", minor_unit=2),
        status="provisional",
        as_of=NOW,
        digest="0" * 64,
        digest_kind="merkle.v1",
        lines=lines,
        credits=credits_,
        total=StatementTotal(records=0, amount="0", rounded="0.00"),
        late=late,
        voided=StatementVoids(
            data=[a_void(n) for n in range(voided)], more=False, total=VoidedTotal(records=voided, amount="0")
        ),
    )


def a_void(number: int) -> VoidedUsage[str]:
    return VoidedUsage(
        request_id=f"{number:064x}",
        customer_id="acme",
        service="a",
        units_consumed="1",
        price_per_unit="1",
        amount="1",
        event_id=None,
        occurred_at=NOW,
        recorded_at=NOW,
        voided_at=NOW,
        void_reason="twice",
        voided_by="anonymous",
    )
