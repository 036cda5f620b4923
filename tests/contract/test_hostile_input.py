"""Bodies that mean harm: each is answered with a problem that says what is wrong, and the service goes on."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.calls import Answer, exchange, json_request, request_head, usage
from tests.services import Service, get_status

ADDRESSES = ["/customers", "/usage", "/usage/batch"]
MALFORMED = {
    "nothing": b"",
    "white space": b" \n",
    "a word": b"hello",
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "a byte order mark": b'\xef\xbb\xbf{"name":"Acme"}',
    "UTF-16": '{"name":"Acme"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"name":"Acme"}'.encode("utf-16-le"),
    "UTF-32": '{"name":"Acme"}'.encode("utf-32"),
    "no UTF-8": b'{"name":"\xff\xfe","records":["\xff"],"customerId":"\xff"}',
    "no UTF-8 in a name": b'{"\xff":1}',
    "no UTF-8, and an escape": b'{"name":"\xff\\n","records":["\xff\\n"],"customerId":"\xff\\n"}',
    "a surrogate in UTF-8": b'{"name":"\xed\xa0\x80","records":["\xed\xa0\x80"],"customerId":"\xed\xa0\x80"}',
    "an overlong NUL": b'{"name":"\xc0\x80","records":["\xc0\x80"],"customerId":"\xc0\x80"}',
    "a lone surrogate": b'{"name":"\\ud800"}',
    "a lone surrogate before text": b'{"name":"\\ud800abc","customerId":"\\ud800abc"}',
    "surrogates the wrong way round": b'{"name":"\\udc00\\ud800"}',
    "a lone surrogate in a name": b'{"\\ud800":1}',
    "a raw NUL": b'{"name":"a\x00b"}',
    "a raw line feed": b'{"name":"a\nb"}',
    "an unknown escape": b'{"name":"\\x41"}',
    "a comma too many": b'{"name":"Acme",}',
    "a comment": b'{"name":"Acme"} // Acme',
    "two documents": b'{"name":"Acme"}{"name":"Acme"}',
    "single quotes": b"{'name':'Acme'}",
    "no end": b'{"name":"Acme"',
    "no end of a text": b'{"name":"Acme',
    "an array": b"[]",
    "a text": b'"Acme"',
    "a number": b"1e999999999",
    "null": b"null",
    "deep arrays": b"[" * 100_000,
    "deep arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"name":' * 100_000,
    "a deep value": b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b',"name":1}',
}


@pytest.fixture(autouse=True)
def the_service_goes_on(shared_service: Service) -> Iterator[None]:
    yield
    assert get_status(shared_service.host, shared_service.port, "/readyz") == 200


def send_body(service: Service, address: str, body: bytes) -> Answer:
    return exchange(service, json_request(address, body))


def assert_refused(answer: Answer) -> Any:
    """A 400 that names what is wrong, one way or another."""
    errors = answer.body["errors"]
    answer.problem("validation_error", *(error["pointer"] for error in errors))
    assert errors
    return answer.body


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_not_one_json_object_in_utf8(shared_service: Service, address: str, body: bytes) -> None:
    answer = send_body(shared_service, address, body)
    if address == "/usage/batch" and answer.status == 200:  # what is wrong with one record is told of that record
        assert [result["outcome"] for result in answer.body["results"]] == ["rejected"]
    else:
        assert_refused(answer)


@pytest.mark.parametrize("depth", [1, 100, 500, *range(900, 1003, 2), 2_000])
@pytest.mark.parametrize("template", [b'{"customerId":%s}', b'{"records":[%s,"\\\\"]}', b'{"records":%s,"records":1}'])
def test_nesting_of_any_depth(shared_service: Service, template: bytes, depth: int) -> None:
    address = "/usage" if b"customerId" in template else "/usage/batch"
    answer = send_body(shared_service, address, template % (b"[" * depth + b"]" * depth))
    if answer.status == 200:
        assert [result["outcome"] for result in answer.body["results"]] == ["rejected", "rejected"]
    else:
        assert_refused(answer)


@pytest.mark.parametrize(
    "number",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999999999",
        "1e-999999999",
        "-1e999999999",
        "1" * 1_000_000,
        "0." + "1" * 1_000_000,
        "1e" + "9" * 1_000_000,
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "0x10",
        "1_000",
        "true",
        "null",
        "[1]",
        '{"value":1}',
        '""',
        '"NaN"',
        '"sNaN"',
        '"inf"',
        '"--1"',
        '" 1"',
        '"1,5"',
        '"1e999999999"',
        '"1\\u0000"',
        '"\\u0661"',
        '"\\ud800"',
    ],
    ids=lambda number: number[:20],
)
def test_a_number_that_is_none(shared_service: Service, number: str) -> None:
    body = f'{{"customerId":"acme","service":"s","unitsConsumed":{number},"pricePerUnit":1}}'
    problem = assert_refused(send_body(shared_service, "/usage", body.encode()))
    assert {error["pointer"] for error in problem["errors"]} <= {"", "/unitsConsumed"}


@pytest.mark.parametrize("text", ["\\u0000", "a\\u0000b", "\\n", "\\u001f", "\\u007f", "\\u0080", "\\u009f"])
@pytest.mark.parametrize("member", ["customerId", "service", "eventId"])
def test_a_control_character(shared_service: Service, member: str, text: str) -> None:
    body = json.dumps(usage(**{member: "TEXT"})).replace("TEXT", text).encode()
    send_body(shared_service, "/usage", body).problem("validation_error", f"/{member}")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b'{"name":"a","name":"a"}', ["/name"]),
        (b'{"name":"a","\\u006eame":"b"}', ["/name"]),
        (b'{"\\u006eame":"a","\\u006Eame":"b"}', ["/name"]),
        (b'{"name":"a","id":"b","id":"c","name":"d"}', ["/id", "/name"]),
        (b'{"name":"a","x":1,"x":2}', ["/x", "/x"]),
        (b'{"name":1,"name":"a","id":"b"}', ["/name"]),
    ],
)
def test_a_name_that_stands_more_than_once(shared_service: Service, body: bytes, pointers: list[str]) -> None:
    send_body(shared_service, "/customers", body).problem("validation_error", *pointers)


@pytest.mark.parametrize("name", ["customerId", "\\u0063ustomerId", "custo\\u006derId"])
def test_a_customer_cannot_be_slipped_in_under_another_spelling(
    shared_service: Service, customer: str, name: str
) -> None:
    record = json.dumps(usage(customerId=customer))[:-1] + f',"{name}":"victim"}}'
    send_body(shared_service, "/usage", record.encode()).problem("validation_error", "/customerId")
    batch = send_body(shared_service, "/usage/batch", f'{{"records":[{record}]}}'.encode()).require(200)
    assert [error["pointer"] for error in batch["results"][0]["problem"]["errors"]] == ["/customerId"]


@pytest.mark.parametrize(
    "value",
    ['{\\"name\\":1}', "name", '\\"name\\":', "\\u006eame", "\\\\"],
    ids=["json", "name", "quoted", "u", "slash"],
)
def test_a_value_that_looks_like_a_name_is_none(shared_service: Service, value: str) -> None:
    body = f'{{"name":"{value}"}}'.encode()
    assert send_body(shared_service, "/customers", body).require(201)["name"] == json.loads(body)["name"]


@pytest.mark.parametrize("repeated", [True, False])
def test_many_names_cost_no_more_than_they_are_worth(shared_service: Service, repeated: bool) -> None:
    names = [f'"n{n % 100_000 if repeated else n}":0' for n in range(200_000)]
    body = ("{" + ",".join(names) + "}").encode()
    answer = send_body(shared_service, "/customers", body)  # within the time limit of the socket
    assert_refused(answer)


def test_a_batch_of_very_many_scraps_is_refused(shared_service: Service) -> None:
    body = b'{"records":[' + b"0," * 1_000_000 + b"0]}"
    send_body(shared_service, "/usage/batch", body).problem("validation_error", "/records")


TEXT = st.text(st.characters(), max_size=8)  # lone surrogates among them
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=8,
)
MEMBERS = ["customerId", "service", "unitsConsumed", "pricePerUnit", "eventId", "occurredAt", "name", "id", "records"]
NEAR_OBJECTS = st.dictionaries(st.sampled_from(MEMBERS) | TEXT, JSON_VALUES, max_size=8)
HOSTILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_answered(answer: Answer) -> None:
    """Nothing that can be sent is the service's fault, and every refusal is a problem."""
    assert answer.status in (200, 201, 400, 404, 409, 422), answer
    if answer.status >= 400:
        answer.problem(answer.body["code"], *(error["pointer"] for error in answer.body.get("errors", [])))


@HOSTILE
@given(address=st.sampled_from(ADDRESSES), value=JSON_VALUES | NEAR_OBJECTS | st.lists(NEAR_OBJECTS, max_size=3))
def test_any_json(shared_service: Service, address: str, value: Any) -> None:
    for body in (value, {"records": value}, {"records": [value]}, usage(unitsConsumed=value)):
        for ascii_only in (True, False):
            data = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            assert_answered(send_body(shared_service, address, data))


@HOSTILE
@given(address=st.sampled_from(ADDRESSES), body=st.binary(max_size=200))
@example(address="/usage", body=b"\x00")
def test_any_bytes(shared_service: Service, address: str, body: bytes) -> None:
    assert_answered(send_body(shared_service, address, body))


@HOSTILE
@given(address=st.sampled_from(ADDRESSES), data=st.data())
def test_any_valid_body_with_a_few_bytes_changed(shared_service: Service, address: str, data: st.DataObject) -> None:
    body = bytearray(
        json.dumps({"records": [usage(eventId='\\"é')], "name": "x"} if address != "/usage" else usage()).encode()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert_answered(send_body(shared_service, address, bytes(body)))


SEGMENTS = st.text(st.characters(), max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(
    max_size=20
)


@HOSTILE
@given(
    segment=SEGMENTS, tail=st.sampled_from(["", "/usage", "/usage/0", "/"]), query=st.none() | st.binary(max_size=20)
)
def test_any_path_and_query(shared_service: Service, segment: bytes, tail: str, query: bytes | None) -> None:
    path = f"/customers/{percent(segment)}{tail}" + ("" if query is None else f"?limit=1&{percent(query)}")
    assert_answered(exchange(shared_service, request_head("GET", path)))


def percent(data: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in data)
