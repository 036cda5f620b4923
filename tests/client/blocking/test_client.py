"""The blocking client: what its methods return and raise, in any thread, and how it ends."""

import contextvars
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import pytest

from billing_client import ConfigurationError, CustomerNotFoundError, DuplicateRecordError, TransportError
from billing_client.blocking import BillingClient
from billing_client.testing import FakeBillingServer, Fault
from tests.services import Service, free_port


def test_a_use_is_recorded_once_and_errors_are_those_of_the_async_client(
    blocking_client: BillingClient, customer: str
) -> None:
    record_usage = partial(
        blocking_client.record_usage, customer_id=customer, service="storage", units_consumed="1.5", event_id="a"
    )
    record = record_usage(price_per_unit="0.02")
    assert (record.outcome, record.amount) == ("recorded", Decimal("0.03"))
    with pytest.raises(DuplicateRecordError) as raised:
        record_usage(price_per_unit="0.020")
    assert raised.value.existing.request_id == record.request_id
    with pytest.raises(CustomerNotFoundError):
        blocking_client.get_customer(customer_id=f"{customer}-nobody")
    assert blocking_client.summary(customer_id=customer).total.amount == Decimal("0.03")


def test_many_threads_share_a_client(blocking_client: BillingClient, customer: str) -> None:
    def record(number: int) -> str | None:
        return blocking_client.record_usage(
            customer_id=customer,
            service="storage",
            units_consumed=number,
            price_per_unit=1,
            event_id=f"{number}",
            on_duplicate="return",
        ).outcome

    with ThreadPoolExecutor(16) as threads:
        outcomes = list(threads.map(record, [number % 100 for number in range(200)]))
    assert (outcomes.count("recorded"), outcomes.count("duplicate")) == (100, 100)
    assert blocking_client.summary(customer_id=customer).total.units == sum(range(100))


def test_settings_are_checked_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError):
        BillingClient(base_url="ftp://example.com")
    with pytest.raises(ConfigurationError):
        BillingClient(base_url="http://127.0.0.1:3000").recorder(batch_size=0)
    assert repr(BillingClient(base_url="http://127.0.0.1:1")) == "BillingClient(base_url='http://127.0.0.1:1')"


def test_closed_it_says_so() -> None:
    client = BillingClient(base_url=f"http://127.0.0.1:{free_port()}", max_attempts=1)
    with client, pytest.raises(TransportError):
        client.get_customer(customer_id="acme")
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.get_customer(customer_id="acme")
    client.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "billing-client"]


def test_the_headers_of_a_call_are_made_in_the_context_of_its_caller(shared_service: Service, customer: str) -> None:
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")
    seen: list[str] = []

    def trace_headers() -> dict[str, str]:
        seen.append(trace.get())
        return {}

    with BillingClient(base_url=shared_service.url, trace_headers=trace_headers) as client:
        for name in ("first", "second"):
            trace.set(name)
            client.get_customer(customer_id=customer)
    assert seen == ["first", "second"]


def test_a_call_that_waits_ends_when_another_thread_closes_the_client(billing_server: FakeBillingServer) -> None:
    billing_server.add_customer("acme")
    billing_server.misbehave(Fault.DELAY, seconds=60, on="GET *")
    client = BillingClient(base_url=billing_server.url)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.get_customer, customer_id="acme")
        while not billing_server.calls:
            time.sleep(0.005)
        client.close()
        with pytest.raises((TransportError, RuntimeError), match="closed during the call"):
            waiting.result()


def test_a_call_in_the_clients_own_thread_is_refused(billing_server: FakeBillingServer) -> None:
    billing_server.add_customer("acme")

    def trace_headers() -> dict[str, str]:
        client.get_customer(customer_id="acme")
        return {}

    with (
        BillingClient(base_url=billing_server.url, trace_headers=trace_headers) as client,
        pytest.raises(RuntimeError, match="would wait for itself"),
    ):
        client.get_customer(customer_id="acme")


def test_a_client_that_is_forgotten_is_told_of_and_leaves_no_thread(shared_service: Service, customer: str) -> None:
    client = BillingClient(base_url=shared_service.url)
    client.get_customer(customer_id=customer)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "billing-client"]
    with pytest.warns(ResourceWarning, match="unclosed BillingClient"):
        del client
    thread.join(60)
    assert not thread.is_alive()
