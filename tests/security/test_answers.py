"""What every answer says to browsers and caches, and what no error says."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from multidict import CIMultiDict

from billing_service.app import OPERATIONS
from billing_service.http.operations import Operation
from billing_service.settings import Settings
from tests.calls import Answer, exchange, json_request, request_head
from tests.databases import Server, database, execute, run
from tests.keys import given_key
from tests.operations import Target, example, examples, name_of, send_example
from tests.security.conftest import MONTH, Victim
from tests.services import Service, free_port, running_service

INSIDES = re.compile(
    r"relation|column|usage_records|\bselect\b|insert into|asyncpg|traceback|\.py\b|postgres|127\.0\.0\.1",
    re.IGNORECASE,
)


def assert_safe(answer: Answer) -> None:
    headers = CIMultiDict(answer.headers)
    assert headers.getall("X-Content-Type-Options") == ["nosniff"]
    assert headers.getall("Cross-Origin-Resource-Policy") == ["same-origin"]
    (kept,) = headers.getall("Cache-Control")
    assert kept in ("no-store", "public, max-age=86400", "public, max-age=31536000, immutable")
    assert "Server" not in headers
    if headers.get("Content-Type", "").startswith("text/html"):
        policy = headers["Content-Security-Policy"]
        for directive in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert directive in policy
        form = re.search(r"form-action ([^;]*)", policy)
        assert form is not None
        assert form[1] in ("'none'", "'self'")  # the console has forms
        script = re.search(r"script-src ([^;]*)", policy)
        assert script is None or script[1] == "'self'"
        assert headers["Referrer-Policy"] in ("no-referrer", "same-origin")


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_every_answer_is_safe_in_a_browser(
    service: Service, victim: Victim, admin: str, operation: Operation, key_of: Callable[..., str]
) -> None:
    shown = [[], [admin], [f"Authorization: Bearer {key_of('customers:read', customer_id='theirs')}"]]
    for request in examples(operation, Target(victim.customer_id, victim.request_id, victim.digest)):
        for headers in shown:
            answer = send_example(service, request, *headers)
            assert_safe(answer)
            if operation.scope is not None:
                assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/docs", "/docs/docs.js", f"/customers/theirs/statement?month={MONTH}&format=html", "/nowhere", "/docs/x"]
)
def test_so_is_every_page(service: Service, victim: Victim, admin: str, path: str) -> None:
    assert victim.customer_id == "theirs"
    assert_safe(exchange(service, request_head("GET", path, admin)))


@pytest.mark.parametrize("sent", [b"\x00\r\n\r\n", request_head("GET", "/", "A: " + "b" * 70_000)])
def test_so_is_the_answer_to_what_is_no_request(service: Service, sent: bytes) -> None:
    assert_safe(exchange(service, sent))


ASKING = [operation for operation in OPERATIONS if operation.scope and operation.path != "/metrics"]


@pytest.fixture(scope="module")
def broken(database_server: Server, template_database: str) -> Iterator[tuple[Service, str]]:
    """A service that lacks tables of its database, though it knows a customer, and the header of a key for it."""
    with database(database_server, template_database) as name:
        url = database_server.url_of(name)
        shown = f"Authorization: Bearer {run(given_key(url, 'admin'))}"
        with running_service(Settings(database_url=url, env="production")) as service:
            exchange(service, json_request("/customers", b'{"id": "acme", "name": "Acme"}', shown)).require(201)
            tables = ("customers", "usage_records", "usage_rollups", "usage_refusals", "changes")
            run(execute(url, *(f"ALTER TABLE {table} RENAME TO {table}_elsewhere" for table in tables)))
            run(execute(url, "ALTER TABLE api_keys RENAME COLUMN created_at TO elsewhere"))  # which no look-up needs
            yield service, shown


@pytest.mark.parametrize("operation", ASKING, ids=name_of)
def test_a_fault_of_the_service_says_nothing_of_its_insides(broken: tuple[Service, str], operation: Operation) -> None:
    service, shown = broken
    answer = send_example(service, example(operation, Target("acme", "0" * 64)), shown)
    assert_safe(answer)
    detail = "The service failed and logged the error. Its operator finds it by the X-Request-Id."
    if operation.error_page is None:
        assert answer.problem("internal_error")["detail"] == detail
        assert not INSIDES.search(json.dumps(answer.body))
    else:
        assert answer.status == 500
        assert detail in answer.body.decode()
        assert not INSIDES.search(answer.body.decode())


def test_a_database_that_is_away_is_not_named() -> None:
    url = f"postgresql://billing:s3cr3t@127.0.0.1:{free_port()}/billing"
    with running_service(Settings(database_url=url)) as service:
        for path in ("/customers", "/readyz", "/usage/export", "/summary"):
            answer = exchange(service, request_head("GET", path))
            answer.problem("unavailable")
            assert not INSIDES.search(json.dumps(answer.body))
            assert_safe(answer)
