"""The database's clock. It gives all processes the same time, even if the clocks of their machines differ."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries

_QUERIES = load_queries("clock")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MAX_SKEW = timedelta(minutes=1)


def _machine_time() -> datetime:
    return datetime.now(UTC)


# A clock that is never set. CLOCK_BOOTTIME also advances while the machine sleeps.
_steady_ns = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns
)


class Clock:
    """Tells the database's time. Between two synchronisations it advances by a steady clock of this process.

    Before the first synchronisation it tells the machine's time. So it does not matter if the machine's clock is wrong,
    or is set while the service runs. `skew` says how wrong it is.

    Args:
        machine_time: The machine's clock, in UTC. Tests replace it.
        steady_ns: Nanoseconds since any moment, on a clock that is never set.
    """

    def __init__(
        self,
        machine_time: Callable[[], datetime] = _machine_time,
        steady_ns: Callable[[], int] = _steady_ns,
    ) -> None:
        self._machine_time = machine_time
        self._steady_ns = steady_ns
        self._offset = _microseconds(machine_time()) - self._steady()
        self.is_synchronised = False
        self.skew = timedelta(0)

    def now(self) -> datetime:
        """The time, in UTC."""
        return _EPOCH + timedelta(0, 0, self._offset + self._steady_ns() // 1000)

    @property
    def fault(self) -> str | None:
        """What is wrong with the machine's clock; None if it is within MAX_SKEW of the database's."""
        if abs(self.skew) <= MAX_SKEW:
            return None
        side = "ahead of" if self.skew > timedelta(0) else "behind"
        seconds = abs(self.skew).total_seconds()
        return f"The clock of this machine is {seconds:.0f} seconds {side} the database's: set one of them."

    async def synchronise(self, connection: Connection) -> None:
        """Read the database's clock. Raises what asyncpg raises."""
        # The database read its clock at some moment between query and result, which gives a range of possible values.
        # Of these, the smallest change of the time and the smallest skew are taken, so a slow query does no harm.
        machine, steady = self._machine_time(), self._steady()
        database = await connection.fetchval(_QUERIES["read_clock"])
        lowest, highest = _microseconds(database) - self._steady(), _microseconds(database) - steady
        last = self._offset if self.is_synchronised else (lowest + highest) // 2
        self._offset = min(max(last, lowest), highest)
        self.skew = min(max(timedelta(0), machine - database), self._machine_time() - database)
        self.is_synchronised = True

    def _steady(self) -> int:
        return self._steady_ns() // 1000


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
