"""An application that records usage, as its supervisor runs it, and the service that it reports to."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from billing_client import Spool, SpoolError
from tests.faults.applications.names import Journal
from tests.programs import UNMEASURED
from tests.services import ServiceProcess, free_port

ROOT = Path(__file__).parents[3]
MODULES = "tests.faults.applications"


class Producer(Struct, frozen=True):
    """How an application is run: the module of its server, and the arguments. `needs_broker` if it does tasks.

    `dies_whole` if its workers die with the process that started them.
    """

    module: str
    arguments: str
    needs_broker: bool = False
    dies_whole: bool = False


PRODUCERS: Mapping[str, Producer] = {
    "fastapi": Producer(
        "uvicorn", f"--port {{port}} --log-level warning --workers {{workers}} {MODULES}.fastapi_app:app"
    ),
    "flask": Producer(
        "gunicorn",
        "--bind 127.0.0.1:{port} --log-level warning --preload --threads 8 --workers {workers} "
        f"{MODULES}.flask_app:app",
    ),
    "celery": Producer(
        "celery",
        f"-A {MODULES}.celery_app worker --concurrency {{workers}} --loglevel warning --without-gossip "
        "--without-mingle",
        needs_broker=True,
        dies_whole=True,
    ),
}


class Application:
    """An application of this producer, and the service that it reports to."""

    def __init__(self, folder: Path, database_url: str, producer: Producer, broker: str) -> None:
        self.producer = producer
        self.broker = broker
        self.spools = folder / "spools"
        self.journal = Journal(folder / "journal.txt")
        self.port, self.service_port = free_port(), free_port()
        self.url, self.service_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.service_port}"
        self._folder = folder
        self._database_url = database_url

    def start(self, workers: int) -> ServiceProcess:
        """Start the application."""
        environment = {
            "APP_SPOOL_DIR": str(self.spools),
            "APP_JOURNAL": str(self._folder / "journal.txt"),
            "APP_BROKER": self.broker,
            "BILLING_BASE_URL": self.service_url,
            "PYTHONPATH": str(ROOT),
            **UNMEASURED,
        }
        arguments = self.producer.arguments.format(port=self.port, workers=workers).split()
        return ServiceProcess(self._folder / "app", *arguments, environment=environment, module=self.producer.module)

    def start_service(self) -> ServiceProcess:
        """Start the service."""
        environment = {"DATABASE_URL": self._database_url, "BILLING_PORT": str(self.service_port), **UNMEASURED}
        return ServiceProcess(self._folder / "service", "serve", environment=environment)

    def files(self) -> list[Path]:
        """The spools."""
        return sorted(self.spools.glob("*.db"))

    def pending(self) -> int:
        """How many records the spools hold."""
        held = 0
        for path in self.files():
            with suppress(SpoolError), Spool(path, read_only=True) as spool:  # it may be removed at this moment
                held += spool.status().pending
        return held
