"""Reading usage: the fast way and the thorough one say the same of everything."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from billing_client.contract.decoding import RecordDecoder, decode_usage
from billing_client.contract.problems import ProblemError
from billing_client.contract.wire import ProblemDetails, UsageRecord

NOW = datetime(2026, 11, 1, tzinfo=UTC)
TEXTS = st.sampled_from(
    ["acme", "", "x" * 128, "x" * 129, "x" * 201, "Zürich", "a\x7fb", "a\x85b", 'a"b', "a:b,{}", "a\\b"]
)
DECIMALS = st.sampled_from(
    ['"1.5"', '"0"', '"007"', '"1.50"', '"1e3"', '"-1"', '"-0"', '""', '"x"', "1.5", "-2", "1e400"]
)
TIMES = st.sampled_from(
    [f'"{time}"' for time in ("2026-10-31T12:00:00Z", "2026-10-31T12:00:00.1234567+02:00", "2026-11-02T00:00:00Z")]
)
ANY = st.one_of(TEXTS.map(json.dumps), TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)), DECIMALS, TIMES)
PAIRS = st.one_of(
    st.dictionaries(TEXTS, TEXTS, max_size=3).map(json.dumps),
    st.sampled_from(['{"a":"b","a":"b"}', "{}", '{"service":"a"}', '{"a":{"b":"c"}}', '{"a":null}', '["a"]']),
)
VALUES = {"customerId": ANY, "service": ANY, "unitsConsumed": DECIMALS, "pricePerUnit": DECIMALS}
OPTIONAL = {"eventId": ANY, "occurredAt": TIMES | ANY, "amount": ANY, "dimensions": PAIRS | ANY}
Members = list[tuple[str, str]]


@st.composite
def members(draw: st.DrawFn) -> Members:
    """The members of an object that means to be usage, most of them sound, in any order."""
    given = [(name, draw(values)) for name, values in VALUES.items() if draw(st.integers(0, 9))]
    given += [(name, draw(values | st.just("null"))) for name, values in OPTIONAL.items() if draw(st.booleans())]
    if given and not draw(st.integers(0, 4)):
        given.append((draw(st.sampled_from(given))[0], draw(ANY)))
    return draw(st.permutations(given))


SOUND = [("customerId", '"acme"'), ("service", '"storage"'), ("unitsConsumed", '"1.5"'), ("pricePerUnit", '"2"')]
SOUND_BODY = b'{"customerId":"acme","service":"storage","unitsConsumed":"7","pricePerUnit":0.5}'


@given(members=members(), space=st.sampled_from(["", " ", "\n"]))
@example(members=SOUND, space="")
@example(members=[*SOUND, ("eventId", '"1"')], space=" ")
@example(members=[*SOUND, ("eventId", "null")], space="")
@example(members=[*SOUND, ("eventId", '"a\x7f"')], space="")
@example(members=[*SOUND, ("eventId", '"a\x85"')], space="")
@example(members=[*SOUND, ("eventId", '"\\u0000"')], space="")
@example(members=[*SOUND, ("service", '"compute"')], space="")
@example(members=[*SOUND, ("occurredAt", "null"), ("occurredAt", '"2026-10-31T12:00:00Z"')], space="")
@example(members=[*SOUND, ("eventId", '"1"'), ("eventId", "null")], space="")
@example(members=[*SOUND, ("dimensions", '{"model":"large","a":"b"}')], space="")
@example(members=[*SOUND, ("dimensions", '{"model":"large","model":"large"}')], space="")
@example(members=[*SOUND, ("dimensions", '{"model":"a\x7f"}')], space="")
@example(members=[*SOUND, ("dimensions", "null"), ("dimensions", '{"model":"large"}')], space="")
def test_the_fast_way_says_what_the_thorough_one_says(members: Members, space: str) -> None:
    written = [(f'"{name}"', value) for name, value in members]
    # an escape, which means the same, is never read the fast way
    escaped = [(name.replace('"s', '"\\u0073').replace('"c', '"\\u0063'), value) for name, value in written]
    thorough = outcome(body(escaped, space))
    assert outcome(body(written, space)) == thorough
    assert outcomes([body(written, space), SOUND_BODY]) == [thorough, outcome(SOUND_BODY)]


@pytest.mark.parametrize("units", ['"-1.5"', "-1.5"])
@pytest.mark.parametrize("may_credit", [True, False])
def test_a_credit_among_many_is_read_as_one_alone(units: str, may_credit: bool) -> None:
    credit = body([(f'"{name}"', units if name == "unitsConsumed" else value) for name, value in SOUND], "")
    alone = outcome(credit, may_credit=may_credit)
    assert isinstance(alone, UsageRecord) is may_credit
    assert outcomes([SOUND_BODY, credit], may_credit=may_credit) == [outcome(SOUND_BODY), alone]


def body(members: Members, space: str) -> bytes:
    return ("{" + f",{space}".join(f"{name}:{space}{value}" for name, value in members) + "}").encode()


def outcome(data: bytes, *, may_credit: bool = True) -> UsageRecord[str] | ProblemDetails[str]:
    try:
        return decode_usage(data, NOW, may_credit=may_credit)
    except ProblemError as error:
        return error.details


def outcomes(bodies: list[bytes], *, may_credit: bool = True) -> list[UsageRecord[str] | ProblemDetails[str]]:
    """What becomes of the records of one batch."""
    read = RecordDecoder(NOW, may_credit=may_credit).many([Raw(each) for each in bodies])
    return [each.details if isinstance(each, ProblemError) else each for each in read]


@pytest.mark.parametrize("digits", ["0.1234567", "0.123456999"])
def test_what_is_finer_than_microseconds_is_cut_off(digits: str) -> None:
    time = f'"2026-10-31T12:00:0{digits}+02:00"'
    record = decode_usage(body([(f'"{name}"', value) for name, value in [*SOUND, ("occurredAt", time)]], ""), NOW)
    assert record.occurred_at == datetime(2026, 10, 31, 10, 0, 0, 123456, tzinfo=UTC)
