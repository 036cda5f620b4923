"""The blocking `meter`."""

import logging
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, overload

from billing_client._records import DecimalLike
from billing_client.blocking._recorder import UsageRecorder
from billing_client.metering._meter import Meter, new_meter

_logger = logging.getLogger(__name__)


class MeteredBlock:
    """The `with` block of `meter`."""

    def __init__(self, recorder: UsageRecorder, counted: Meter) -> None:
        self._recorder = recorder
        self._meter = counted

    def __enter__(self) -> Meter:
        return self._meter

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        usages = self._meter.usages()
        if not usages:
            return
        try:
            self._recorder.record_many(usages)
        except Exception:
            if error is None or isinstance(error, Exception):
                raise
            _logger.exception("usage was not recorded, and its block was ended by %r: %r", error, usages)


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
    """A `with` block whose usage is known only at its end, be it that the block returns, raises or is interrupted.

    All that the block used is recorded as one: all of it, or nothing. When the block has ended, it is on disk.

    Args:
        recorder: A recorder of the blocking client.
        customer_id: Who uses it. Without customer, service and price the block has only the uses that the meter's
            `record` is given.
        service: What is used.
        price_per_unit: The price of one unit.
        event_id: Your name for the use. By default a new UUID, since each block is a use of its own.
        occurred_at: When it is used, with a time zone. By default at the end of the block.
        dimensions: What else you bill or report by.

    Returns:
        The block. `with … as metered` gives the Meter.

    Raises:
        BillingError: What `UsageRecorder.record_many` raises, at the end of the block. If the block was interrupted
            (KeyboardInterrupt, SystemExit, or a closed generator), the log has it, and the block ends as it did.
    """
    return MeteredBlock(recorder, new_meter(fields))
