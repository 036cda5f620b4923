"""Customers, through the client and the service."""

import pytest

from billing_client import BillingSystemClient, CustomerExistsError, CustomerNotFoundError, ValidationError
from tests.client.answers import CUSTOMER, USAGE, as_read, client_of, json_answer
from tests.client.misbehaving import misbehaving

AWKWARD_IDS = [
    "a b",
    "a/b",
    "/",
    "//",
    ".",
    "..",
    "...",
    "../x",
    "%2F",
    "%",
    "a+b",
    "a?b=c",
    "a#b",
    "\\",
    '"',
    "ü",
    "😀",
]
"""Ids that a path written carelessly would change."""


async def test_a_customer_is_created_and_read_back(client: BillingSystemClient) -> None:
    created = await client.create_customer(name="Acme", customer_id="acme")
    assert (created.id, created.name, created.updated_at) == ("acme", "Acme", created.created_at)
    assert await client.get_customer(customer_id="acme") == created


async def test_a_customer_without_an_id_gets_one(client: BillingSystemClient) -> None:
    first, second = await client.create_customer(name="Acme"), await client.create_customer(name="Acme")
    assert first.id.startswith("cus_")
    assert second.id.startswith("cus_")
    assert first.id < second.id


async def test_a_change_of_name_moves_updated_at(client: BillingSystemClient, customer_id: str) -> None:
    before = await client.get_customer(customer_id=customer_id)
    after = await client.update_customer(customer_id=customer_id, name="Acme & Sons")
    assert after.name == "Acme & Sons"
    assert after.created_at == before.created_at
    assert after.updated_at > before.updated_at
    assert await client.get_customer(customer_id=customer_id) == after


async def test_an_id_that_is_taken_is_refused(client: BillingSystemClient, customer_id: str) -> None:
    with pytest.raises(CustomerExistsError) as caught:
        await client.create_customer(name="Another", customer_id=customer_id)
    assert (caught.value.status, caught.value.code, caught.value.outcome) == (409, "customer_exists", "rejected")


async def test_a_customer_that_is_not_there_is_not_found(client: BillingSystemClient) -> None:
    with pytest.raises(CustomerNotFoundError):
        await client.get_customer(customer_id="nobody")
    with pytest.raises(CustomerNotFoundError) as caught:
        await client.update_customer(customer_id="nobody", name="Nobody")
    assert (caught.value.status, caught.value.code, caught.value.idempotency_key) == (404, "customer_not_found", None)


async def test_customers_are_read_page_by_page(client: BillingSystemClient) -> None:
    ids = [f"customer-{number}" for number in range(7)]
    for customer_id in reversed(ids):
        await client.create_customer(name="Acme", customer_id=customer_id)
    for page_size in (1, 3, 7, 100):
        assert [customer.id async for customer in client.customers(page_size=page_size)] == ids


async def test_no_customers_are_no_pages(client: BillingSystemClient) -> None:
    assert [customer async for customer in client.customers()] == []


async def test_a_page_size_that_the_service_refuses_is_a_validation_error(client: BillingSystemClient) -> None:
    with pytest.raises(ValidationError) as caught:
        await anext(client.customers(page_size=0))
    assert caught.value.status == 400
    assert [error.pointer for error in caught.value.errors] == ["query/limit"]


async def test_awkward_ids_reach_the_service_as_they_are(client: BillingSystemClient) -> None:
    for customer_id in AWKWARD_IDS:
        created = await client.create_customer(name=customer_id, customer_id=customer_id)
        assert created.id == customer_id
        assert (await client.get_customer(customer_id=customer_id)).name == customer_id
        assert (await client.update_customer(customer_id=customer_id, name="Acme")).name == "Acme"
        record = await client.record_usage(**{**USAGE, "customer_id": customer_id, "service": customer_id})
        assert await client.get_usage(customer_id=customer_id, request_id=record.request_id) == as_read(record)
        records = [record async for record in client.usage(customer_id=customer_id, service=customer_id)]
        assert [record.customer_id for record in records] == [customer_id]
    assert {customer.id async for customer in client.customers()} == set(AWKWARD_IDS)


@pytest.mark.parametrize(
    ("customer_id", "segment"),
    [(".", "%2E"), ("..", "%2E%2E"), ("a/b", "a%2Fb"), ("%2F", "%252F"), ("a b+ü", "a%20b%2B%C3%BC"), ("...", "...")],
)
async def test_an_id_is_one_segment_for_whatever_stands_in_between(customer_id: str, segment: str) -> None:
    """A proxy takes "." and ".." for folders; the service alone would not."""
    found = json_answer(200, {**CUSTOMER, "id": customer_id})
    async with misbehaving(found) as server, client_of(server) as client:
        await client.get_customer(customer_id=customer_id)
    assert server.requests[0].target == f"/customers/{segment}"


@pytest.mark.parametrize(
    ("customer_id", "name", "pointers"),
    [
        ("", "Acme", ["/id"]),
        ("a" * 129, "Acme", ["/id"]),
        ("acme", "", ["/name"]),
        ("acme", "n" * 201, ["/name"]),
        ("a\0", "Acme\n", ["/id", "/name"]),
        ("\ud800", "\udfff", ["/id", "/name"]),
    ],
)
async def test_a_bad_customer_is_refused_before_it_is_sent(customer_id: str, name: str, pointers: list[str]) -> None:
    async with BillingSystemClient(base_url="http://127.0.0.1:1") as client:
        with pytest.raises(ValidationError) as caught:
            await client.create_customer(name=name, customer_id=customer_id)
    assert sorted(error.pointer for error in caught.value.errors) == pointers
    assert (caught.value.status, caught.value.attempts, caught.value.outcome) == (None, 0, "not_sent")


async def test_an_id_that_no_address_can_carry_is_a_validation_error() -> None:
    async with BillingSystemClient(base_url="http://127.0.0.1:1") as client:
        with pytest.raises(ValidationError):
            await client.get_customer(customer_id="\ud800")
        with pytest.raises(ValidationError):
            await client.update_customer(customer_id="\ud800", name="Acme")
        with pytest.raises(ValidationError):
            await client.get_usage(customer_id="acme", request_id="\ud800")
        with pytest.raises(ValidationError):
            await anext(client.usage(customer_id="\ud800"))
