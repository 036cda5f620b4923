"""Statements as the tests ask for them, and what their digest must be."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from tests.calls import get, post, usage


class Page(NamedTuple):
    """An answer that is no JSON."""

    status: int
    headers: Mapping[str, str]
    text: str


async def fetch(http: aiohttp.ClientSession, path: str, **headers: str) -> Page:
    async with http.get(URL(path, encoded=True), headers=headers) as response:
        return Page(response.status, response.headers, await response.text())


async def statement(http: aiohttp.ClientSession, month: str, customer_id: str = "acme", **query: str) -> Any:
    path = f"/customers/{quote(customer_id, safe='')}/statement"
    return (await get(http, f"{path}?{urlencode({'month': month} | query)}")).require(200)


async def record(http: aiohttp.ClientSession, event_id: str, occurred_at: str, **changes: str) -> Any:
    """Record one use; the record."""
    report = usage(eventId=event_id, occurredAt=occurred_at, **changes)
    return (await post(http, "/usage", report)).require(201)


async def void(http: aiohttp.ClientSession, stored: Any, reason: str = "metered twice", by: str = "jo") -> Any:
    """Void a record; the record."""
    path = f"/customers/{quote(stored['customerId'], safe='')}/usage/{stored['requestId']}/void"
    return (await post(http, path, {"reason": reason, "voidedFor": by})).require(200)


def digest_of(records: Iterable[Any]) -> str:
    """The digest of a set of records, as its definition says."""
    return sha256(b"".join(sorted(bytes.fromhex(record["requestId"]) for record in records))).hexdigest()
