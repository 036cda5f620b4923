"""A cursor that was made up, or comes from elsewhere, shows nothing that the list would not."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from billing_service.http.cursors import write_cursor
from tests.calls import Answer, exchange, json_request, request_head, usage
from tests.security.conftest import SECRETS, Victim
from tests.services import Service

PAST = datetime(2020, 1, 1, tzinfo=UTC)
LISTS = ("/customers", "/summary", "/customers/mine/usage")
POSITIONS: list[object] = [["theirs"], [""], [PAST, b""], [PAST, b"\xff" * 32], [], "x", None, 1, {"id": "a"}]


@pytest.fixture(scope="module", autouse=True)
def three_records(service: Service, victim: Victim, mine: str) -> None:
    """The customer `mine` has three records, beside the victim."""
    assert victim.customer_id == "theirs"
    for number in range(3):
        body = json.dumps(usage(customerId="mine", eventId=f"{number}")).encode()
        exchange(service, json_request("/usage", body, mine)).require(201)


def page(service: Service, path: str, cursor: str, shown: str) -> Answer:
    answer = exchange(service, request_head("GET", f"{path}?cursor={quote(cursor)}", shown))
    assert answer.status in (200, 400), answer
    assert not any(secret in json.dumps(answer.body) for secret in SECRETS)
    return answer


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("position", POSITIONS, ids=repr)
def test_whoever_knows_how_cursors_are_made_gains_nothing(
    service: Service, mine: str, path: str, position: object
) -> None:
    scopes = ["customers", "usage theirs", repr(("usage", "theirs", None, PAST, PAST)), ""]
    for scope in scopes:
        answer = page(service, path, write_cursor(scope, position), mine)
        if answer.status == 200:
            assert len(answer.body["data"]) <= 3


def test_each_bit_of_a_cursor_counts(service: Service, mine: str) -> None:
    first = exchange(service, request_head("GET", "/customers/mine/usage?limit=1", mine)).require(200)
    cursor = first["nextCursor"]
    data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    page(service, "/customers/mine/usage", cursor, mine).require(200)
    for position in range(len(data)):
        altered = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        forged = urlsafe_b64encode(altered).decode().rstrip("=")
        page(service, "/customers/mine/usage", forged, mine).problem("validation_error", "query/cursor")


def test_a_cursor_of_another_list_is_refused(service: Service, mine: str, admin: str) -> None:
    theirs = exchange(service, request_head("GET", "/customers/theirs/usage?limit=1", admin)).require(200)["nextCursor"]
    page(service, "/customers/mine/usage", theirs, mine).problem("validation_error", "query/cursor")
    for path in ("/customers", "/summary"):
        page(service, path, theirs, mine).problem("validation_error", "query/cursor")


@pytest.mark.parametrize("position", [2**63, 2**64 - 1, -1, "a\0b", "", "x" * 129, None, 1.5, [1]], ids=repr)
@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/customers/mine/statements", "issued mine"),
        ("/statements?month=2026-01", "statements 2026-01 UTC"),
        ("/customers", "customers"),
    ],
)
def test_no_position_makes_the_service_fail(
    service: Service, admin: str, mine: str, path: str, scope: str, position: object
) -> None:
    assert mine
    separator = "&" if "?" in path else "?"
    head = request_head("GET", f"{path}{separator}cursor={quote(write_cursor(scope, position))}", admin)
    exchange(service, head).problem("validation_error", "query/cursor")


@pytest.mark.parametrize("position", ["a\0b", "", 1], ids=repr)
def test_no_position_makes_issuing_fail(service: Service, admin: str, position: object) -> None:
    body = {"month": "2026-01", "cursor": write_cursor("issue 2026-01 UTC", position)}
    exchange(service, json_request("/statements", json.dumps(body).encode(), admin)).problem(
        "validation_error", "/cursor"
    )
