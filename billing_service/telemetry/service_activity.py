"""When usage of each service was last recorded, by any worker process. The database keeps it across restarts."""

from collections.abc import Iterable
from datetime import UTC, datetime

from billing_service.database.pool import Database
from billing_service.database.queries import load_queries
from billing_service.database.replication import commit_without_waiting

_QUERIES = load_queries("service_activity")
MAX_SERVICES = 100  # that are exposed by name
MAX_UNSAVED = 1_000
OTHER = "other"  # stands for all services beyond the limit


class ServiceActivity:
    """The time of the last recorded usage by service, in seconds since 1970.

    The MAX_SERVICES services that are active most often are listed by name, all others together as `other`. So names
    that were sent only once do not displace real services. A new service may count as `other` until the next
    `synchronise`.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}

    def note(self, services: Iterable[str], moment: float) -> None:
        """Note that usage of these services was recorded.

        Args:
            services: Their names.
            moment: When, in seconds since 1970.
        """
        for service in services:
            _advance(self._last, service, moment, MAX_SERVICES)
            _advance(self._unsaved, service, moment, MAX_UNSAVED)

    def silences(self, now: float) -> dict[str, float]:
        """The seconds from the last recorded usage to `now` (seconds since 1970), by service; never negative."""
        return {service: max(0.0, now - moment) for service, moment in self._last.copy().items()}

    async def synchronise(self, database: Database) -> None:
        """Save this process's new times, then load those of all processes. Raises DatabaseUnavailableError."""
        saved = self._unsaved.copy()
        async with database.connection() as connection:
            if saved:
                moments = [datetime.fromtimestamp(moment, UTC) for moment in saved.values()]
                async with connection.transaction():
                    await commit_without_waiting(connection)  # else reads would lack a connection without a standby
                    await connection.execute(_QUERIES["save_activity"], list(saved), moments)
            rows = await connection.fetch(_QUERIES["most_active"], MAX_SERVICES)
        self._unsaved = {service: moment for service, moment in self._unsaved.items() if moment != saved.get(service)}
        last = {row["service"]: row["last_recorded_at"].timestamp() for row in rows}
        for service, moment in self._unsaved.items():
            _advance(last, service, moment, MAX_SERVICES)
        self._last = last


def _advance(last: dict[str, float], service: str, moment: float, limit: int) -> None:
    """Update a service's last time, or that of `other` if `limit` services are listed by name already."""
    if service not in last and len(last) - (OTHER in last) >= limit:
        service = OTHER
    last[service] = max(moment, last.get(service, 0.0))
