"""What `DATABASE_URL` says: the hosts, and the parameters of libpq that asyncpg does not know."""

import re
import socket
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

_SCHEMES = ("postgresql://", "postgres://")
_WHOLE = re.compile(r"-?[0-9]{1,9}")
_SOCKET_OPTIONS = {  # where the system has them
    "keepalives_idle": ("TCP_KEEPIDLE", "TCP_KEEPALIVE"),
    "keepalives_interval": ("TCP_KEEPINTVL",),
    "keepalives_count": ("TCP_KEEPCNT",),
    "tcp_user_timeout": ("TCP_USER_TIMEOUT",),
}
_NUMBERS = ("connect_timeout", "keepalives", *_SOCKET_OPTIONS)
DEFAULT_PORT = 5432
_TARGETS = ("any", "primary", "read-write", "read-only", "standby", "prefer-standby")
_PRIMARY = ("primary", "read-write")


class DatabaseUrlError(ValueError):
    """What is wrong with a URL, without anything of what it holds."""


class Host(NamedTuple):
    """One server: its address for messages, and the URL that leads to it alone."""

    name: str
    url: str

    def listens_at(self, address: str) -> bool:
        """Whether this is the server at `host:port`, by its name."""
        return address in (self.name, f"{self.name}:{DEFAULT_PORT}")


class DatabaseUrl(NamedTuple):
    """A URL, read as libpq does (PostgreSQL's documentation, 34.1.1 and 34.1.2).

    Attributes:
        hosts: The servers that it names, in its order; at least one.
        url: The whole, for asyncpg.
        connect_timeout: Seconds that connecting to each host may take; None where the URL does not say.
        socket_options: Level, option and value of what is set on a TCP socket.
        target: Which servers may be used: one of the values of `target_session_attrs`.
    """

    hosts: tuple[Host, ...]
    url: str
    connect_timeout: float | None
    socket_options: tuple[tuple[int, int, int], ...]
    target: str

    @property
    def wants_primary(self) -> bool:
        """Whether only a primary may be used. That is so unless the URL says otherwise."""
        return self.target in _PRIMARY


def parse_database_url(text: str) -> DatabaseUrl:
    """Read a URL. Raises DatabaseUrlError."""
    if not text.startswith(_SCHEMES):
        raise DatabaseUrlError("what it holds (not shown) is no URL of PostgreSQL")
    scheme, _, rest = text.partition("://")
    authority, path, query = _split(rest)
    pairs = [pair for pair in query.split("&") if pair]
    own = {name: value for name, value in parse_qsl(query) if name in (*_NUMBERS, "target_session_attrs")}
    left = [pair for pair in pairs if pair.partition("=")[0] not in own]
    numbers = {name: _number(name, own[name]) for name in _NUMBERS if name in own}
    target = own.get("target_session_attrs", "primary")
    if target not in _TARGETS:
        raise DatabaseUrlError(f"its target_session_attrs is none of {', '.join(_TARGETS)}")
    timeout = numbers.get("connect_timeout", 0)
    return DatabaseUrl(
        hosts=tuple(_hosts(scheme, authority, path, left)),
        url=_url(scheme, authority, path, left),
        connect_timeout=timeout if timeout > 0 else None,
        socket_options=tuple(_socket_options(numbers)),
        target=target,
    )


def _split(rest: str) -> tuple[str, str, str]:
    """Authority, path and query of what follows the scheme."""
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    return authority, slash + path, query


def _url(scheme: str, authority: str, path: str, pairs: list[str]) -> str:
    return f"{scheme}://{authority}{path}" + (f"?{'&'.join(pairs)}" if pairs else "")


def _hosts(scheme: str, authority: str, path: str, pairs: list[str]) -> list[Host]:
    """The hosts before the path or, where none is there, those of the parameter `host`."""
    user, at, names = authority.rpartition("@")
    if names:
        hosts = names.split(",")
        _check_ports(hosts)
        return [Host(host, _url(scheme, f"{user}{at}{host}", path, pairs)) for host in hosts]
    given = dict(parse_qsl("&".join(pairs)))
    hosts, ports = given.get("host", "").split(","), given.get("port", "").split(",")
    if len(ports) not in (1, len(hosts)):
        raise DatabaseUrlError("it has neither one port nor one for each host")
    if len(hosts) == 1:
        return [Host(hosts[0] or "the local server", _url(scheme, authority, path, pairs))]
    others = [pair for pair in pairs if pair.partition("=")[0] not in ("host", "port")]
    each = zip(hosts, ports if len(ports) > 1 else ports * len(hosts), strict=True)
    return [
        Host(host, _url(scheme, authority, path, [*others, f"host={quote(host)}", *([f"port={port}"] if port else [])]))
        for host, port in each
    ]


def _check_ports(hosts: list[str]) -> None:
    try:
        good = all(host and urlsplit(f"//{host}").port != 0 for host in hosts)
    except ValueError as error:  # which shows what may be a password
        raise DatabaseUrlError("what it holds (not shown) is not valid") from error
    if not good:
        raise DatabaseUrlError("one of its hosts has no name, or 0 for a port")


def _number(name: str, value: str) -> int:
    if not _WHOLE.fullmatch(value):
        raise DatabaseUrlError(f"its {name} is no whole number")
    return int(value)


def _socket_options(numbers: dict[str, int]) -> list[tuple[int, int, int]]:
    """As libpq sets them: keep-alives are on unless turned off, and 0 is the system's default."""
    on = numbers.get("keepalives", 1) != 0
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] if on else []
    for parameter, names in _SOCKET_OPTIONS.items():
        value = numbers.get(parameter, 0)
        option = next((getattr(socket, name) for name in names if hasattr(socket, name)), None)
        if value > 0 and option is not None and (on or parameter == "tcp_user_timeout"):
            options.append((socket.IPPROTO_TCP, option, value))
    return options
