"""When usage of each service was last recorded, whichever process recorded it, and before this one started too."""

from collections.abc import Iterable
from datetime import UTC, datetime

from billing_service.database.pool import Database
from billing_service.database.queries import load_queries

_QUERIES = load_queries("service_activity")
MAX_SERVICES = 100
MAX_UNSAVED = 1_000
OTHER = "other"


class ServiceActivity:
    """The last moments by service: of MAX_SERVICES by name, of all others together. Times are seconds since 1970.

    The services that are active most often go by their names. So names that were made up once do not keep those of real
    services out; in between two calls of `synchronise` a new service may go by `other`.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}

    def note(self, services: Iterable[str], moment: float) -> None:
        """Usage of these services was recorded."""
        for service in services:
            _advance(self._last, service, moment, MAX_SERVICES)
            _advance(self._unsaved, service, moment, MAX_UNSAVED)

    def silences(self, now: float) -> dict[str, float]:
        """The seconds since the last recorded usage, by service."""
        return {service: max(0.0, now - moment) for service, moment in self._last.copy().items()}

    async def synchronise(self, database: Database) -> None:
        """Save what is new here, and take over what all processes saved. Raises DatabaseUnavailableError."""
        saved = self._unsaved.copy()
        async with database.connection() as connection:
            if saved:
                moments = [datetime.fromtimestamp(moment, UTC) for moment in saved.values()]
                await connection.execute(_QUERIES["save_activity"], list(saved), moments)
            rows = await connection.fetch(_QUERIES["most_active"], MAX_SERVICES)
        self._unsaved = {service: moment for service, moment in self._unsaved.items() if moment != saved.get(service)}
        last = {row["service"]: row["last_recorded_at"].timestamp() for row in rows}
        for service, moment in self._unsaved.items():
            _advance(last, service, moment, MAX_SERVICES)
        self._last = last


def _advance(last: dict[str, float], service: str, moment: float, most: int) -> None:
    """Move a service's last moment on, or that of all others where `most` go by their names already."""
    if service not in last and len(last) - (OTHER in last) >= most:
        service = OTHER
    last[service] = max(moment, last.get(service, 0.0))
