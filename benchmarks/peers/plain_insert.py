"""One plain insert for each request: Starlette, msgspec and asyncpg, with nothing in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256

import asyncpg
import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from billing_service.settings import load_settings

INSERT = """
INSERT INTO usage_records
    (customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
ON CONFLICT (customer_id, request_id) DO NOTHING
RETURNING request_id
"""


class Usage(Struct, rename="camel"):
    customer_id: str
    service: str
    units_consumed: Decimal
    price_per_unit: Decimal
    event_id: str


class Record(Usage):
    request_id: str
    amount: Decimal
    recorded_at: datetime


_decode = msgspec.json.Decoder(Usage).decode
_encode = msgspec.json.Encoder().encode


async def record_usage(request: Request) -> Response:
    """`POST /usage`"""
    usage = _decode(await request.body())
    request_id = sha256(_encode(["event.v1", usage.customer_id, usage.event_id])).digest()
    now = datetime.now(UTC)
    inserted = await request.app.state.pool.fetchval(
        INSERT,
        usage.customer_id,
        request_id,
        usage.event_id,
        usage.service,
        usage.units_consumed,
        usage.price_per_unit,
        now,
    )
    if inserted is None:
        return Response(b'{"error":"duplicate_record"}', 409, media_type="application/json")
    record = Record(
        **msgspec.structs.asdict(usage),
        request_id=request_id.hex(),
        amount=usage.units_consumed * usage.price_per_unit,
        recorded_at=now,
    )
    return Response(_encode(record), 201, media_type="application/json")


async def _leave_as_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Spare the round trip in which the pool would reset a session that nothing changes."""


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    settings = load_settings()
    pool_size = settings.pool_size
    async with asyncpg.create_pool(settings.database_url, min_size=0, max_size=pool_size, reset=_leave_as_is) as pool:
        app.state.pool = pool
        yield


app = Starlette(routes=[Route("/usage", record_usage, methods=["POST"])], lifespan=lifespan)
