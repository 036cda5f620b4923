"""Iterators of the blocking client: in the caller's thread, as far as the caller asks, and closed with it."""

import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import closing
from itertools import islice

import pytest

from billing_client import CustomerNotFoundError, TransportError, Usage
from billing_client.blocking import BillingClient
from billing_client.blocking._iteration import PIECE_ITEMS, READ_AHEAD, Caller, iterate
from billing_client.blocking._loop_thread import LoopThread
from billing_client.testing import FakeBillingServer


def use(customer_id: str, number: int) -> Usage:
    return Usage(
        customer_id=customer_id, service="storage", units_consumed=number, price_per_unit=1, event_id=f"{number}"
    )


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


class Source:
    """An async generator of numbers that tells how far it came, and whether it was closed."""

    def __init__(self, error_at: int | None = None) -> None:
        self.made = 0
        self.is_closed = False
        self.error_at = error_at

    async def numbers(self, _: Caller[int]) -> AsyncGenerator[int, None]:
        try:
            while self.made != self.error_at:
                self.made += 1
                yield self.made
            raise LookupError("this far")
        finally:
            self.is_closed = True


def test_all_that_is_stored_is_listed(blocking_client: BillingClient, customer: str) -> None:
    outcomes = list(blocking_client.record_usages(use(customer, number) for number in range(250)))
    assert [outcome.outcome for outcome in outcomes] == ["recorded"] * 250
    assert [outcome.usage.event_id for outcome in outcomes] == [f"{number}" for number in range(250)]
    listed = {record.event_id for record in blocking_client.usage(customer_id=customer, page_size=100)}
    assert listed == {f"{number}" for number in range(250)}
    assert len(list(blocking_client.export_lines(customer_id=customer, format="csv"))) == 251


def test_an_error_is_raised_where_it_came(blocking_client: BillingClient, customer: str) -> None:
    records = blocking_client.usage(customer_id=f"{customer}-nobody")
    with pytest.raises(CustomerNotFoundError):
        next(records)
    with pytest.raises(ValueError, match="batch_size must be"):
        list(blocking_client.record_usages([], batch_size=0))


def test_what_was_yielded_before_an_error_is_not_lost(thread: LoopThread) -> None:
    numbers = iterate(thread, Source(error_at=READ_AHEAD + 5).numbers)
    assert list(islice(numbers, READ_AHEAD + 5)) == list(range(1, READ_AHEAD + 6))
    with pytest.raises(LookupError, match="this far"):
        next(numbers)


def test_the_loop_reads_ahead_within_a_bound(thread: LoopThread) -> None:
    source = Source()
    with closing(iterate(thread, source.numbers)) as numbers:
        for asked in (1, READ_AHEAD, 1):
            assert len(list(islice(numbers, asked))) == asked
            thread.call(lambda: None)
    assert READ_AHEAD <= source.made <= 2 * READ_AHEAD + 1
    assert source.is_closed


def test_a_caller_that_stops_early_closes_the_generator(thread: LoopThread) -> None:
    source = Source()
    for number in iterate(thread, source.numbers):
        if number == 3:
            break
    assert source.is_closed


def test_the_callers_uses_are_taken_in_its_own_thread_and_only_when_it_asks(
    billing_server: FakeBillingServer,
) -> None:
    billing_server.add_customer("acme")
    threads, taken = set(), []

    def uses() -> Generator[Usage, None, None]:
        for number in range(10 * PIECE_ITEMS):
            threads.add(threading.current_thread())
            taken.append(number)
            yield use("acme", number)

    with BillingClient(base_url=billing_server.url) as client:
        outcomes = client.record_usages(uses(), batch_size=10)
        assert next(outcomes).outcome == "recorded"
        assert threads == {threading.current_thread()}
        assert len(taken) <= 2 * PIECE_ITEMS
        outcomes.close()
        assert len(billing_server.records) < len(taken) + 1


def test_an_error_of_the_callers_iterable_is_raised_after_the_outcomes_before_it(
    billing_server: FakeBillingServer,
) -> None:
    billing_server.add_customer("acme")

    def uses() -> Generator[Usage, None, None]:
        yield from (use("acme", number) for number in range(PIECE_ITEMS))
        raise LookupError("the source broke")

    with BillingClient(base_url=billing_server.url) as client:
        outcomes = client.record_usages(uses(), batch_size=10)
        assert len(list(islice(outcomes, PIECE_ITEMS))) == PIECE_ITEMS
        with pytest.raises(LookupError, match="the source broke"):
            next(outcomes)


def test_an_async_iterable_of_uses_does_as_well(billing_server: FakeBillingServer) -> None:
    billing_server.add_customer("acme")

    async def uses() -> AsyncGenerator[Usage, None]:
        for number in range(3):
            yield use("acme", number)

    with BillingClient(base_url=billing_server.url) as client:
        assert [outcome.outcome for outcome in client.record_usages(uses())] == ["recorded"] * 3


def test_an_iteration_ends_with_an_error_when_another_thread_closes_the_client(
    blocking_client: BillingClient, customer: str
) -> None:
    list(blocking_client.record_usages(use(customer, number) for number in range(10)))
    records = blocking_client.usage(customer_id=customer, page_size=1)
    next(records)
    blocking_client.close()
    with pytest.raises((RuntimeError, TransportError), match="closed"):
        list(records)
