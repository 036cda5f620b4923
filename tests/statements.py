"""Statements as the tests ask for them, and what their digest must be."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
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


async def issue(http: aiohttp.ClientSession, month: str, customer_id: str = "acme", **more: str) -> Any:
    """Issue a statement that is new; the statement."""
    path = f"/customers/{quote(customer_id, safe='')}/statements"
    return (await post(http, path, {"month": month} | more)).require(201)


def digest_of(records: Iterable[Any], start: str) -> str:
    """The digest of the records that count in a statement that begins at `start`, as its definition says."""
    pieces: dict[datetime, list[Any]] = {}
    for record in records:
        occurred = datetime.fromisoformat(record["occurredAt"])
        cut = occurred.replace(hour=occurred.hour // 3 * 3, minute=0, second=0, microsecond=0)
        pieces.setdefault(max(cut, datetime.fromisoformat(start)), []).append(record)
    leaves = []
    for at, piece in sorted(pieces.items()):
        ordered = sorted(piece, key=lambda r: (datetime.fromisoformat(r["recordedAt"]), r["requestId"]))
        root = merkle_root([content_hash(record) for record in ordered])
        leaves.append(
            json.dumps(["piece.v1", instant(at), str(len(piece)), root.hex()], separators=(",", ":")).encode()
        )
    return merkle_root(leaves).hex()


def merkle_root(leaves: list[bytes]) -> bytes:
    """The root of a tree as RFC 9162, section 2.1.1, defines it."""
    if len(leaves) < 2:
        return sha256(b"".join(b"\0" + leaf for leaf in leaves)).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + merkle_root(leaves[:split]) + merkle_root(leaves[split:])).digest()


def content_hash(record: Any) -> bytes:
    """The content hash of a record as it was sent, as its definition says."""
    names = ("customerId", "requestId", "service", "unitsConsumed", "pricePerUnit")
    parts = ["record.v1", *(record[name] for name in names)]
    parts += [instant(datetime.fromisoformat(record[name])) for name in ("occurredAt", "recordedAt")]
    optional = {name: record[name] for name in ("eventId", "recordedBy") if record[name] is not None}
    optional |= {f"dimension.{name}": value for name, value in record.get("dimensions", {}).items()}
    parts += [text for name in sorted(optional) for text in (name, optional[name])]
    return sha256(json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()).digest()


def instant(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
