"""The options of a recorder, checked."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from msgspec import Struct

from billing_client._errors import ConfigurationError
from billing_client.contract.wire import MAX_BATCH_RECORDS
from billing_client.spooling.events import RecorderEvent

LEAST_BYTES = 4_096  # more than any one record has
_LEAST = {
    "full_timeout": 0,
    "max_records": 1,
    "max_bytes": LEAST_BYTES,
    "close_timeout": 0,
    "linger": 0,
    "defer_timeout": 0,
}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST_KEPT = timedelta(days=31)


def seconds_kept(given: "timedelta | str | None") -> float | None:
    """How long `keep_delivered` is, in seconds. Raises ConfigurationError."""
    if given is None:
        return None
    kept = given
    if isinstance(given, str) and (found := re.fullmatch(r"(\d{1,9})([smhd])", given)):
        kept = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not isinstance(kept, timedelta) or not timedelta() < kept <= LONGEST_KEPT:
        text = f"keep_delivered is {given!r}, but must be a timedelta, or text such as '90m', '24h' or '7d', "
        raise ConfigurationError(f"{text}above 0 and at most {LONGEST_KEPT.days} days")
    return kept.total_seconds()


class RecorderOptions(Struct, frozen=True, kw_only=True):
    """See BillingSystemClient.recorder, which does not give the last three. Raises ConfigurationError.

    Attributes:
        look_seconds: Between two looks for spools of dead processes, at the mean.
        rewrite_seconds: Until usage that the disk did not take is written again.
        first_deferral: Until usage that the service refused for now is sent again, at first.
    """

    spool: Path | None
    spool_dir: Path | None
    on_event: Callable[[RecorderEvent], None] | None
    on_full: Literal["wait", "raise"]
    full_timeout: float
    max_records: int
    max_bytes: int
    batch_size: int
    close_timeout: float
    linger: float
    unknown_customer: Literal["dead", "wait", "create"]
    defer_timeout: float
    keep_delivered: float | None
    look_seconds: float = 5.0
    rewrite_seconds: float = 1.0
    first_deferral: float = 1.0

    def __post_init__(self) -> None:
        if self.spool is not None and self.spool_dir is not None:
            raise ConfigurationError("give spool or spool_dir, not both")
        if not 1 <= self.batch_size <= MAX_BATCH_RECORDS:
            raise ConfigurationError(f"batch_size is {self.batch_size!r}, but must be 1 to {MAX_BATCH_RECORDS}")
        if self.on_full not in ("wait", "raise"):
            raise ConfigurationError(f"on_full is {self.on_full!r}, but must be 'wait' or 'raise'")
        if self.unknown_customer not in ("dead", "wait", "create"):
            given = f"unknown_customer is {self.unknown_customer!r}"
            raise ConfigurationError(f"{given}, but must be 'dead', 'wait' or 'create'")
        for name, bound in _LEAST.items():
            if not getattr(self, name) >= bound:  # NaN is not
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}, but must be at least {bound}")
