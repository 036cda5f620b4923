"""Counts what a block uses, and has it recorded however the block ends."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from types import TracebackType
from typing import Any, overload
from uuid import uuid4

import msgspec

from billing_client._records import DecimalLike, Usage
from billing_client.contract.decimals import EXACT
from billing_client.spooling.recorder import UsageRecorder

_logger = logging.getLogger(__name__)


class Meter:
    """What a block has used so far. `meter` makes one.

    Attributes:
        units_consumed: How many units were added.
        others: The uses that `record` was given.
    """

    def __init__(self, usage: Usage | None) -> None:
        self._usage = usage
        self.units_consumed = Decimal(0)
        self.others: list[Usage] = []

    def add(self, units: DecimalLike) -> None:
        """Add to the units that the block used.

        Args:
            units: How many more: a decimal number. A float does not hold one exactly, and is refused.

        Raises:
            ValueError: They are no decimal number.
            RuntimeError: `meter` was not told what the units are of.
        """
        if self._usage is None:
            raise RuntimeError("give meter() a customer, a service and a price to count units of; or use record()")
        self.units_consumed = EXACT.add(self.units_consumed, _decimal(units))

    def record(self, *usages: Usage) -> None:
        """Have whole uses recorded too, such as the tokens of a call, a use for each kind of them.

        Args:
            usages: The uses. Without an event id, equal uses are one.
        """
        self.others += usages

    def usages(self) -> list[Usage]:
        """What would be recorded if the block ended now. Zero units are not."""
        if self._usage is None or not self.units_consumed:
            return list(self.others)
        return [msgspec.structs.replace(self._usage, units_consumed=self.units_consumed), *self.others]


class MeteredBlock:
    """The `async with` block of `meter`."""

    def __init__(self, recorder: UsageRecorder, counted: Meter) -> None:
        self._recorder = recorder
        self._meter = counted

    async def __aenter__(self) -> Meter:
        return self._meter

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        usages = self._meter.usages()
        if not usages:
            return
        try:
            await self._recorder.record_many(usages)
        except Exception:
            if not isinstance(error, asyncio.CancelledError):
                raise
            _logger.exception("usage was not recorded, and its caller was cancelled: %r", usages)


@overload
def meter(recorder: UsageRecorder) -> MeteredBlock: ...


@overload
def meter(
    recorder: UsageRecorder,
    *,
    customer_id: str,
    service: str,
    price_per_unit: DecimalLike,
    event_id: str | None = None,
    occurred_at: datetime | None = None,
    dimensions: Mapping[str, str] | None = None,
) -> MeteredBlock: ...


def meter(recorder: UsageRecorder, **fields: Any) -> MeteredBlock:
    """An `async with` block whose usage is known only at its end, be it that the block returns, raises or is cancelled.

    All that the block used is recorded as one: all of it, or nothing. When the block has ended, it is on disk.

    Args:
        recorder: An open recorder.
        customer_id: Who uses it. Without customer, service and price the block has only the uses that the meter's
            `record` is given.
        service: What is used.
        price_per_unit: The price of one unit.
        event_id: Your name for the use. By default a new UUID, since each block is a use of its own.
        occurred_at: When it is used, with a time zone. By default at the end of the block.
        dimensions: What else you bill or report by.

    Returns:
        The block. `async with … as metered` gives the Meter.

    Raises:
        BillingError: What `UsageRecorder.record_many` raises, at the end of the block. If the block was cancelled, the
            log has it, and the cancellation goes on.
    """
    return MeteredBlock(recorder, new_meter(fields))


def new_meter(fields: Mapping[str, Any]) -> Meter:
    """A meter of a use with these fields, or of none."""
    if not fields:
        return Meter(None)
    return Meter(Usage(units_consumed=0, **{**fields, "event_id": fields.get("event_id") or str(uuid4())}))


def _decimal(units: DecimalLike) -> Decimal:
    if isinstance(units, bool) or not isinstance(units, Decimal | int | str):
        raise ValueError(f"units are {units!r}, but must be a Decimal, an int or a str")
    try:
        number = Decimal(units)
    except InvalidOperation as error:
        raise ValueError(f"units are {units!r}, which is no decimal number") from error
    if not number.is_finite():
        raise ValueError(f"units are {units!r}, but must be finite")
    return number
