"""When usage of each service was last recorded, whichever process recorded it, and before this one started too."""

from collections.abc import Iterable
from datetime import UTC, datetime

from billing_service.database.pool import Database
from billing_service.database.queries import load_queries

_QUERIES = load_queries("activity")
MAX_SERVICES = 100
OTHER = "other"


class Silence:
    """The last moments by service: of MAX_SERVICES by name, of all others together. Times are seconds since 1970."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}

    def note(self, services: Iterable[str], moment: float) -> None:
        """Usage of these services was recorded."""
        for service in services:
            name = _advance(self._last, service, moment)
            self._unsaved[name] = self._last[name]

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
            rows = await connection.fetch(_QUERIES["latest_activity"], MAX_SERVICES + 1)
        self._unsaved = {service: moment for service, moment in self._unsaved.items() if moment != saved.get(service)}
        last: dict[str, float] = {}
        for row in rows:
            _advance(last, row["service"], row["last_recorded_at"].timestamp())
        for service, moment in self._unsaved.items():
            _advance(last, service, moment)
        self._last = last


def _advance(last: dict[str, float], service: str, moment: float) -> str:
    """Move a service's last moment on; the name that it goes by."""
    if service not in last and len(last) - (OTHER in last) >= MAX_SERVICES:
        service = OTHER
    last[service] = max(moment, last.get(service, 0.0))
    return service
