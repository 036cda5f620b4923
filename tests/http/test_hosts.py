"""Allowed hosts: loopback names in development, and all names elsewhere unless some are configured."""

from collections.abc import Iterator

import pytest

from billing_client.contract.problems import ProblemError
from billing_service.http.hosts import HostNames
from billing_service.settings import Settings
from tests.calls import exchange, request_head
from tests.services import Service, running_service

URL = "postgresql://nowhere"


@pytest.fixture(scope="module")
def keyed_service(shared_service: Service) -> Iterator[Service]:
    """A service that asks for keys, and serves all host names."""
    with running_service(Settings(database_url=shared_service.settings.database_url, env="production")) as service:
        yield service


def is_served(settings: Settings, host: bytes) -> bool:
    try:
        HostNames(settings).require(host, "1.1")
    except ProblemError as error:
        return error.details.status != 421
    return True


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:3000", b"127.0.0.1:80", b"[::1]:3000", b"[::1]"])
def test_in_development_the_names_of_this_machine_are_served(host: bytes) -> None:
    assert is_served(Settings(database_url=URL), host)


@pytest.mark.parametrize("host", [b"rebound.example", b"localhost.example", b"127.0.0.1.example:3000", b""])
def test_in_development_no_other_name_is(host: bytes) -> None:
    assert not is_served(Settings(database_url=URL, host="0.0.0.0"), host)


def test_those_that_are_allowed_are_served_too() -> None:
    settings = Settings(database_url=URL, allowed_hosts="billing.test, [fd00::1]")
    assert is_served(settings, b"Billing.Test:3000")
    assert is_served(settings, b"[fd00::1]:3000")
    assert is_served(settings, b"localhost")
    assert not is_served(settings, b"other.test")


def test_in_production_all_are_served_unless_some_are_named() -> None:
    assert is_served(Settings(database_url=URL, env="production"), b"anything.example")
    named = Settings(database_url=URL, env="production", allowed_hosts="billing.example")
    assert is_served(named, b"billing.example")
    assert not is_served(named, b"anything.example")
    assert not is_served(named, b"localhost")


def test_what_was_seen_is_bounded() -> None:
    names = HostNames(Settings(database_url=URL))
    for port in range(3_000):
        names.require(b"localhost:%d" % port, "1.1")
    assert len(names.served) == 1_000


def test_a_page_under_a_name_of_its_own_writes_nothing(shared_service: Service) -> None:
    body = b'{"id": "rebound", "name": "Rebound"}'
    length = f"Content-Length: {len(body)}"
    lines = ("POST /customers HTTP/1.1", "Host: rebound.example", "Content-Type: application/json", length, "", "")
    head = "\r\n".join(lines).encode()
    answer = exchange(shared_service, head + body)
    assert answer.problem("misdirected_request")["status"] == 421
    assert exchange(shared_service, request_head("GET", "/customers/rebound")).status == 404


LINES = {
    "none": (),
    "two": ("Host: localhost", "Host: localhost"),
    "two in two spellings": ("Host: localhost", "HOST: 127.0.0.1"),
    "one behind an empty one": ("Host:", "Host: localhost"),
    "no name": ("Host: local host",),
    "a path": ("Host: localhost/x",),
    "a user": ("Host: user@localhost",),
    "no text": ("Host: \xff",),
    "no port": ("Host: localhost:http",),
}


@pytest.mark.parametrize("env", ["development", "production"])
@pytest.mark.parametrize("target", ["/healthz", "http://localhost/healthz"])
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_a_request_has_one_host(
    shared_service: Service, keyed_service: Service, env: str, target: str, lines: tuple[str, ...]
) -> None:
    service = shared_service if env == "development" else keyed_service
    head = "\r\n".join((f"GET {target} HTTP/1.1", *lines, "", "")).encode("latin-1")
    if target.startswith("/") or len(lines) != 1:  # the authority of an address counts in the place of `Host`
        answer = exchange(service, head)
        answer.problem("validation_error")
        assert answer.headers["Connection"] == "close"


def test_before_http_1_1_a_request_may_have_none(shared_service: Service) -> None:
    exchange(shared_service, b"GET /healthz HTTP/1.0\r\n\r\n").require(200)
    exchange(shared_service, b"GET http://localhost/healthz HTTP/1.0\r\n\r\n").require(200)
