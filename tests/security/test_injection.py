"""What a caller writes stays what it is: text, in SQL, in headers and in the log."""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_origin
from urllib.parse import quote

import msgspec
import pytest

import billing_service
from billing_client.contract.query_parameters import EventsQuery
from billing_service.app import OPERATIONS
from billing_service.http.operations import Operation
from tests.calls import exchange, json_request, request_head, usage
from tests.databases import execute, run
from tests.keys import given_key
from tests.operations import Example, Target, example, name_of, send_example
from tests.security.conftest import SECRETS, Victim, everything_of_theirs
from tests.services import Service, serve_process

PAYLOADS = (
    "'; DROP TABLE usage_records; --",
    "' OR '1'='1",
    '" OR ""="',
    "theirs' UNION SELECT secret_sha256::text FROM api_keys --",
    "1); DELETE FROM customers; --",
    "\\'; SELECT pg_sleep(10); --",
    "$1 $$ || %s {0} ${x} %27",
)
RUNS_SQL = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "cursor", "prepare"}


def texts(struct: Any) -> list[str]:
    """The fields of a struct that hold text, by the name on the wire."""
    fields = msgspec.structs.fields(get_origin(struct) or struct)
    return [
        field.encode_name for field in fields if "datetime" not in str(field.type) and "list" not in str(field.type)
    ]


def tampered(operation: Operation, target: Target, payload: str) -> Iterator[tuple[Example, str]]:
    """Requests of an operation with a payload in each place where a caller writes: the request, and a header."""
    request = example(operation, target)
    ids = operation.path.count("{")
    for changed in (target._replace(customer_id=payload), target._replace(request_id=quote(payload, safe="")))[:ids]:
        yield request._replace(path=example(operation, changed).path), ""
    end = "&seconds=1" if operation.query is EventsQuery else ""  # of its stream
    for name in texts(operation.query):
        path = request.path.partition("?")[0]
        yield request._replace(path=f"{path}?{name}={quote(payload, safe='')}{end}"), ""
    for header in ("Idempotency-Key", "Accept", "X-Request-Id", "traceparent"):
        yield request, f"{header}: {payload}"
    if request.body is not None:
        body = json.loads(request.body)
        outer, record = (body, body["records"][0]) if "records" in body else (body, body)
        for name in {*record, "reason", "voidedFor", "name", "id"} & {*record, *texts(operation.body)}:
            kept = record.get(name)
            record[name] = payload
            yield request._replace(body=json.dumps(outer).encode()), ""
            record.pop(name)
            if kept is not None:
                record[name] = kept


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.documented], ids=name_of)
def test_sql_in_any_field_or_filter_is_text(
    service: Service, victim: Victim, mine: str, admin: str, operation: Operation
) -> None:
    before = everything_of_theirs(service.settings.database_url)
    keys = "SELECT count(*) FROM api_keys"
    count = run(execute(str(service.settings.database_url), keys))
    created = 0
    for payload in PAYLOADS:
        for request, header in tampered(operation, Target("mine"), payload):
            answer = send_example(service, request, admin, *([header] if header else []))
            assert answer.status < 500, (request, answer)
            created += operation.path == "/keys" and answer.status == 201  # which is what it is for
    assert everything_of_theirs(service.settings.database_url) == before
    assert run(execute(str(service.settings.database_url), keys)) == count + created
    exchange(service, request_head("GET", "/customers/mine", mine)).require(200)
    assert victim.customer_id == "theirs"


def test_a_filter_finds_what_is_named_and_nothing_else(service: Service, victim: Victim, admin: str) -> None:
    for payload in PAYLOADS:
        path = f"/customers/theirs/usage?service={quote(payload, safe='')}"
        assert exchange(service, request_head("GET", path, admin)).require(200)["data"] == []
        found = exchange(service, request_head("GET", f"/usage/export?service={quote(payload, safe='')}", admin))
        assert found.status == 200
        assert {json.loads(line)["service"] for line in found.body.splitlines()} <= {payload}
    body = json.dumps(usage(customerId="theirs", service=PAYLOADS[0], eventId=PAYLOADS[1])).encode()
    recorded = exchange(service, json_request("/usage", body, admin)).require(201)
    assert (recorded["service"], recorded["eventId"]) == PAYLOADS[:2]
    path = f"/customers/theirs/usage?service={quote(PAYLOADS[0], safe='')}"
    assert exchange(service, request_head("GET", path, admin)).require(200)["data"] == [recorded]
    assert victim.customer_id == "theirs"


def test_no_sql_is_put_together() -> None:
    """Whatever runs SQL runs a named query of `sql/`, or a statement of a migration, as it stands."""
    checked = 0
    for path in Path(billing_service.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RUNS_SQL:
                if not node.args:
                    continue
                checked += 1
                sql = ast.unparse(node.args[0])
                named = isinstance(node.args[0], ast.Subscript) and sql.split("[")[0].isupper()
                fetches_rows = ast.unparse(node.func) == "cursor.fetch"
                assert named or fetches_rows or sql in ("statement", "query", "source.query"), (
                    f"{path.name}:{node.lineno}: {sql}"
                )
    assert checked > 20


LINES = ("\r\nX-Evil: 1", "\nX-Evil: 1", "\r\n\r\n<script>", "\x85X-Evil: 1", "\u2028X-Evil: 1")


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_no_header_is_made_by_a_caller(service: Service, admin: str, line: str) -> None:
    for id_, expected in ((f"a{line}", {400, 201}), ('é"; filename="x', {201})):
        body = json.dumps({"id": id_, "name": "Acme"}).encode()
        answer = exchange(service, json_request("/customers", body, admin))
        assert answer.status in expected | {409}
        assert "X-Evil" not in answer.headers
        assert answer.headers.get("Location", "/customers/").isascii()
        path = f"/customers/{quote(id_, safe='')}/statement?month=2026-01{quote(line)}&format=csv"
        assert "X-Evil" not in exchange(service, request_head("GET", path, admin)).headers


@pytest.mark.parametrize("name", ["a b", "a\tb", 'a"b', "a;b", "a\x85b", "é", "a" * 129])
def test_only_a_sane_name_of_a_request_is_repeated(service: Service, name: str) -> None:
    answer = exchange(service, request_head("GET", "/healthz", f"X-Request-Id: {name}"))
    assert answer.headers["X-Request-Id"] != name
    assert exchange(service, request_head("GET", "/healthz", "X-Request-Id: a.b")).headers["X-Request-Id"] == "a.b"


async def test_nothing_that_a_caller_writes_makes_a_line_of_the_log(tmp_path: Path, database_url: str) -> None:
    key = await given_key(database_url, "usage:read")
    forged = '{"level":"error","event":"forged"}'
    variables = {"BILLING_ENV": "production", "BILLING_LOG_LEVEL": "debug"}
    with serve_process(tmp_path, database_url, environment=variables) as served:
        for text in (f"a\n{forged}", f"a\r\n{forged}", f"\x1b[31m{forged}"):
            path = f"/customers/{quote(text, safe='')}/usage?service={quote(text, safe='')}"
            shown = f"Authorization: Bearer {key}"
            exchange(served, request_head("GET", path, shown, "User-Agent: forged", "X-Request-Id: forged one"))
            body = json.dumps(usage(customerId=text, service=text)).encode()
            exchange(served, json_request("/usage", body, shown, 'Idempotency-Key: "forged"'))
            exchange(served, request_head("GET", path, f"Authorization: Bearer {key[:-1]}x"))
            exchange(served, f"GET /{text} HTTP/1.1\r\n\r\n".encode())
        assert served.service.terminate() == 0
    written = served.service.output
    assert "forged" not in written
    assert "\x1b" not in written
    secret = key.split("_")[2]
    assert secret[:16] not in written
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert len([line for line in lines if line["event"] == "request"]) >= 9


@pytest.mark.parametrize("secret", SECRETS[:1])
def test_a_page_shows_markup_as_text(service: Service, admin: str, secret: str, key_of: Callable[..., str]) -> None:
    name = f"<script>alert(1)</script>{secret}<img src=x onerror=alert(2)>"
    exchange(service, json_request("/customers", json.dumps({"id": "x", "name": name}).encode(), admin)).require(201)
    used = usage(customerId="x", service=name, occurredAt="2026-01-05T00:00:00Z")
    exchange(service, json_request("/usage", json.dumps(used).encode(), admin)).require(201)
    page = exchange(service, request_head("GET", "/customers/x/statement?month=2026-01&format=html", admin))
    assert page.status == 200
    text = page.body.decode()
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
