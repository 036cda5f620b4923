"""What may stand between the services and the servers: HAProxy, or PgBouncer, once or beside each server."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncpg

from tests.databases import run
from tests.replication import START_SECONDS, server_user, url_of
from tests.services import free_port

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_PROGRAMS = {"haproxy": shutil.which("haproxy", path=_PATH), "pgbouncer": shutil.which("pgbouncer", path=_PATH)}
_HAPROXY = """
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen postgresql
    bind 127.0.0.1:{port}
    option tcp-check
    tcp-check connect
    tcp-check send-binary {startup}
    tcp-check expect binary 5a0000000549 # ReadyForQuery
    tcp-check send-binary {question}
    tcp-check expect binary {answer}
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
"""
_PGBOUNCER = """
[databases]
* = host=127.0.0.1 port={target} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
logfile = {log}
admin_users = postgres
pool_mode = {mode}
default_pool_size = 20
ignore_startup_parameters = client_min_messages
server_login_retry = 1
"""


class HAProxy:
    """Gives connections to whichever of the servers at `ports` says that it is a primary."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.port = free_port()
        configuration = _HAPROXY.format(
            port=self.port,
            startup=_message(b"", b"\0\3\0\0" + b"user\0postgres\0database\0postgres\0\0"),
            question=_message(b"Q", b"SELECT pg_is_in_recovery()\0"),
            answer=_message(b"D", b"\0\1\0\0\0\1f"),
        )
        lines = "".join(f"    server db{port} 127.0.0.1:{port} check\n" for port in ports)
        file = folder / "haproxy.cfg"
        file.write_text(configuration + lines)
        self._process = _started("haproxy", "-q", "-db", "-f", file)

    def lead_to(self, port: int) -> None:
        """It finds out by itself."""

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class PgBouncer:
    """Has one server behind it, at `port`. `mode` is `session` or `transaction`."""

    def __init__(self, folder: Path, port: int, mode: str) -> None:
        self.port = free_port()
        self._mode = mode
        self._file = folder / f"pgbouncer-{self.port}.ini"
        self._write(port)
        self.start()

    def _write(self, target: int) -> None:
        log = self._file.with_suffix(".log")
        self._file.write_text(_PGBOUNCER.format(port=self.port, target=target, mode=self._mode, log=log))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        user = server_user()
        self._process = _started("pgbouncer", "-q", *(["-u", user] if user else []), self._file)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.tell("SHOW VERSION")
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def tell(self, command: str, seconds: float = START_SECONDS) -> None:
        """Give it a command of its console. Raises TimeoutError."""
        run(_tell(url_of(f"127.0.0.1:{self.port}", database="pgbouncer"), command, seconds))

    def pause(self, seconds: float) -> None:
        """Let nothing new through for so long. In session mode what has a connection goes on, and is waited for."""
        ends = time.monotonic() + seconds
        with suppress(TimeoutError):
            self.tell("PAUSE", seconds)
        time.sleep(max(0.0, ends - time.monotonic()))

    def lead_to(self, port: int) -> None:
        """As its documentation says for a failover: another address, and no connection to the old one any more."""
        self._write(port)
        self.tell("RELOAD")
        self.tell("RECONNECT")


def missing_program(front: str) -> str | None:
    """The program that is not installed, if there is one."""
    name = front.partition(" ")[0].removesuffix("s")
    return name if name and _PROGRAMS[name] is None else None


@contextmanager
def fronts_of(front: str, folder: Path, ports: Sequence[int]) -> Iterator[list[HAProxy | PgBouncer]]:
    """What a case has in front of the servers at `ports`, the primary first: nothing, one program, or one for each."""
    name, _, mode = front.partition(" ")
    with ExitStack() as stack:
        made: list[HAProxy | PgBouncer] = []
        for port in {"": [], "pgbouncers": ports}.get(name, ports[:1]):
            made.append(HAProxy(folder, ports) if name == "haproxy" else PgBouncer(folder, port, mode))
            stack.callback(made[-1].stop)
        yield made


def _message(kind: bytes, content: bytes) -> str:
    """A message of PostgreSQL's protocol, in hexadecimal digits."""
    return (kind + (len(content) + 4).to_bytes(4) + content).hex()


def _started(program: str, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([str(_PROGRAMS[program]), *map(str, arguments)], stdin=subprocess.DEVNULL, cwd="/")


async def _tell(url: str, command: str, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(command)
        finally:
            connection.terminate()
