"""FastAPI with SQLAlchemy 2 on asyncpg, as their documentation teaches it."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from sqlalchemy import DateTime, Numeric
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from billing_service.settings import load_settings

settings = load_settings()
engine = create_async_engine(
    make_url(settings.database_url or "").set(drivername="postgresql+asyncpg"),
    pool_size=settings.pool_size,
    max_overflow=0,
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class UsageRow(Base):
    __tablename__ = "usage_records"

    customer_id: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[bytes] = mapped_column(primary_key=True)
    event_id: Mapped[str | None]
    service: Mapped[str]
    units_consumed: Mapped[Decimal] = mapped_column(Numeric)
    price_per_unit: Mapped[Decimal] = mapped_column(Numeric)
    occurred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    recorded_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class NewUsage(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    customer_id: Annotated[str, Field(min_length=1, max_length=128)]
    service: Annotated[str, Field(min_length=1, max_length=200)]
    units_consumed: Annotated[Decimal, Field(ge=0, max_digits=38, decimal_places=18)]
    price_per_unit: Annotated[Decimal, Field(ge=0, max_digits=38, decimal_places=18)]
    event_id: Annotated[str, Field(min_length=1, max_length=128)]


class Usage(NewUsage):
    request_id: str
    amount: Decimal
    recorded_at: datetime


async def session() -> AsyncIterator[AsyncSession]:
    async with new_session() as opened:
        yield opened


app = FastAPI()


@app.post("/usage", status_code=201)
async def record_usage(usage: NewUsage, database: Annotated[AsyncSession, Depends(session)]) -> Usage:
    now = datetime.now(UTC)
    identity = json.dumps(["event.v1", usage.customer_id, usage.event_id], ensure_ascii=False, separators=(",", ":"))
    request_id = sha256(identity.encode()).digest()
    statement = (
        insert(UsageRow)
        .values(**usage.model_dump(), request_id=request_id, occurred_at=now, recorded_at=now)
        .on_conflict_do_nothing(index_elements=["customer_id", "request_id"])
        .returning(UsageRow.request_id)
    )
    inserted = await database.scalar(statement)
    await database.commit()
    if inserted is None:
        raise HTTPException(409, "duplicate_record")
    amount = usage.units_consumed * usage.price_per_unit
    return Usage(**usage.model_dump(), request_id=request_id.hex(), amount=amount, recorded_at=now)
