"""What every address reads from the line and the headers of a request, and what it makes of a body that is no JSON."""

import gzip
import json

import aiohttp
import pytest

from tests.calls import Answer, exchange, json_request, request_head, send, usage
from tests.services import Service

JSON_TYPE = "Content-Type: application/json"
CUSTOMER = b'{"name":"Acme"}'


def send_body(service: Service, body: bytes, *headers: str) -> Answer:
    head = request_head("POST", "/customers", f"Content-Length: {len(body)}", *headers)
    return exchange(service, head, body)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/vnd.billing.v1+json",
        "application/json ; version=1",
    ],
)
def test_a_content_type_that_is_json(shared_service: Service, content_type: str) -> None:
    headers = [f"Content-Type: {content_type}"]
    send_body(shared_service, CUSTOMER, *headers).require(201)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Content-Type: text/plain"],
        ["Content-Type: application/x-www-form-urlencoded"],
        ["Content-Type: multipart/form-data; boundary=x"],
        ["Content-Type: application/xml"],
        ["Content-Type: application/jsonp"],
        ["Content-Type: text/json"],
        ["Content-Type: json"],
        ["Content-Type: "],
        ["Content-Type: application/json; charset=latin-1"],
        ["Content-Type: application/json; charset=utf-16"],
        [JSON_TYPE, "Content-Encoding: gzip"],
        [JSON_TYPE, "Content-Encoding: br"],
        [JSON_TYPE, "Content-Encoding: identity, gzip"],
    ],
    ids=" ".join,
)
def test_a_body_that_is_not_plain_json_in_utf8(shared_service: Service, headers: list[str]) -> None:
    body = gzip.compress(CUSTOMER) if "Content-Encoding: gzip" in headers else CUSTOMER
    send_body(shared_service, body, *headers).problem("unsupported_media_type")


def test_a_request_without_a_body(shared_service: Service) -> None:
    for path in ("/customers", "/usage", "/usage/batch"):
        exchange(shared_service, request_head("POST", path, JSON_TYPE)).problem("validation_error", "")


@pytest.mark.parametrize(
    "value",
    [
        "",
        '""',
        "a b",
        '"a',
        '"a"b"',
        '"a\\b"',
        "x" * 256,
        '"' + "x" * 256 + '"',
        "caf\u00e9",
        '"\u00e9"',
        "a\tb",
        '"a", "b"',
    ],
    ids=lambda value: ascii(value)[:20],
)
@pytest.mark.parametrize("path", ["/usage", "/usage/batch", "/customers"])
def test_a_bad_idempotency_key(shared_service: Service, path: str, value: str) -> None:
    answer = exchange(shared_service, json_request(path, b"{}", f"Idempotency-Key: {value}"))
    answer.problem("validation_error", "header/Idempotency-Key")


def test_an_idempotency_key_that_comes_twice(shared_service: Service) -> None:
    for second in ("a", "b"):
        answer = exchange(
            shared_service, json_request("/usage", b"{}", "Idempotency-Key: a", f"idempotency-key: {second}")
        )
        answer.problem("validation_error", "header/Idempotency-Key")


@pytest.mark.parametrize(
    "value", ["x", "x" * 255, '"x y"', '"' + "x" * 255 + '"', '"a\\"b\\\\c"', "8e03978e-40d5-43dd"]
)
def test_a_good_idempotency_key(shared_service: Service, customer: str, value: str) -> None:
    request = json_request("/usage", json.dumps(usage(customerId=customer)).encode(), f"Idempotency-Key: {value}")
    exchange(shared_service, request).require(201)
    assert exchange(shared_service, request).replayed


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/customers", {"GET", "HEAD", "POST"}),
        ("DELETE", "/customers/acme", {"GET", "HEAD", "PATCH"}),
        ("GET", "/usage", {"POST"}),
        ("GET", "/usage/batch", {"POST"}),
        ("POST", "/customers/acme/usage", {"GET", "HEAD"}),
        ("PUT", "/customers/acme/usage/0", {"GET", "HEAD"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    shared_http: aiohttp.ClientSession, method: str, path: str, allowed: set[str]
) -> None:
    answer = await send(shared_http, method, path)
    answer.problem("method_not_allowed")
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/nothing",
        "/customers/",
        "/usage/",
        "/usage/batch/",
        "/customers/a/b",
        "/customers/a/usage/b/c",
        "//customers",
    ],
)
def test_an_address_with_nothing_at_it(shared_service: Service, path: str) -> None:
    exchange(shared_service, request_head("GET", path or "/?")).problem("not_found")


@pytest.mark.parametrize(
    "id_", ["%00", "%0A", "%7F", "%C2%80", "%FF", "%C3", "%ED%A0%80", "%C0%AF", "x" * 129, "%E2%82%AC" * 129]
)
@pytest.mark.parametrize("tail", ["", "/usage", f"/usage/{'0' * 64}"])
def test_an_id_that_is_none(shared_service: Service, id_: str, tail: str) -> None:
    exchange(shared_service, request_head("GET", f"/customers/{id_}{tail}")).problem("validation_error", "path/id")


@pytest.mark.parametrize("id_", ["%", "%4", "%ZZ", "%u0041", "%%"])
def test_a_percent_sign_that_encodes_nothing(shared_service: Service, id_: str) -> None:
    answer = exchange(shared_service, request_head("GET", f"/customers/{id_}"))
    assert answer.status in (400, 404)
    answer.problem(answer.body["code"], *(error["pointer"] for error in answer.body.get("errors", [])))


async def test_a_head_request_gets_the_head_alone(shared_http: aiohttp.ClientSession) -> None:
    async with shared_http.head("/healthz") as response:
        assert (response.status, await response.read()) == (200, b"")
