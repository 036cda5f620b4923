"""The request id: the vectors that ship with the client, and properties for every decimal."""

import json
import re
import time
import tracemalloc
from decimal import Context, Decimal, Inexact
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import billing_client
from billing_client.contract.decimals import plain_decimal
from billing_client.contract.identity import event_request_id, new_customer_id, usage_request_id

VECTORS: dict[str, Any] = json.loads(
    Path(billing_client.__file__).parent.joinpath("contract", "request_id_vectors.json").read_text(encoding="utf-8")
)
EXACT = Context(prec=200, traps=[Inexact])

whole_parts = st.integers(0, 10**38 - 1).map(str)
legal_text = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]),  # neither control characters nor surrogates
    min_size=1,
    max_size=128,
)


@st.composite
def plain_decimals(draw: st.DrawFn) -> str:
    """Decimals in range, in the one plain spelling."""
    digits = draw(st.integers(0, 10**38 - 1))
    value = EXACT.scaleb(Decimal(digits), -draw(st.integers(0, 18)))
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@st.composite
def spellings(draw: st.DrawFn, plain: str) -> str:
    """Another way to write a plain decimal."""
    whole, _, fraction = plain.partition(".")
    digits, scale = whole + fraction, len(fraction)
    digits += "0" * (padding := draw(st.integers(0, 5)))
    point = draw(st.integers(0, len(digits)))  # the exponent makes up for where the point is put
    exponent = len(digits) - scale - padding - point
    text = draw(st.sampled_from(["", "+"])) + "0" * draw(st.integers(0, 3)) + digits[:point] + "." + digits[point:]
    if exponent == 0 and draw(st.booleans()):
        return text
    sign = "-" if exponent < 0 else draw(st.sampled_from(["", "+"]))
    return f"{text}{draw(st.sampled_from('eE'))}{sign}{'0' * draw(st.integers(0, 3))}{abs(exponent)}"


@pytest.mark.parametrize("vector", VECTORS["usage"], ids=lambda vector: vector["description"])
def test_usage_vectors(vector: dict[str, Any]) -> None:
    given, canonical = vector["input"], vector["canonical"]
    units, price = plain_decimal(given["unitsConsumed"]), plain_decimal(given["pricePerUnit"])
    assert json.loads(canonical) == ["usage.v1", given["customerId"], given["service"], units, price]
    assert sha256(canonical.encode()).hexdigest() == vector["requestId"]
    assert usage_request_id(given["customerId"], given["service"], units, price) == vector["requestId"]


@pytest.mark.parametrize("vector", VECTORS["dimensions"], ids=lambda vector: vector["description"])
def test_dimension_vectors(vector: dict[str, Any]) -> None:
    given, canonical = vector["input"], vector["canonical"]
    units, price = plain_decimal(given["unitsConsumed"]), plain_decimal(given["pricePerUnit"])
    pairs = [text for name in sorted(given["dimensions"]) for text in (name, given["dimensions"][name])]
    assert json.loads(canonical) == ["usage.v2", given["customerId"], given["service"], units, price, *pairs]
    assert sha256(canonical.encode()).hexdigest() == vector["requestId"]
    request_id = usage_request_id(given["customerId"], given["service"], units, price, given["dimensions"])
    assert request_id == vector["requestId"]


@pytest.mark.parametrize("vector", VECTORS["events"], ids=lambda vector: vector["description"])
def test_event_vectors(vector: dict[str, Any]) -> None:
    given, canonical = vector["input"], vector["canonical"]
    assert json.loads(canonical) == ["event.v1", given["customerId"], given["eventId"]]
    assert sha256(canonical.encode()).hexdigest() == vector["requestId"]
    assert event_request_id(given["customerId"], given["eventId"]) == vector["requestId"]


@pytest.mark.parametrize("vector", VECTORS["decimals"], ids=lambda vector: vector["plain"])
def test_every_spelling_of_a_decimal_vector_is_written_plainly(vector: dict[str, Any]) -> None:
    assert {spelling: plain_decimal(spelling) for spelling in vector["spellings"]} == dict.fromkeys(
        vector["spellings"], vector["plain"]
    )


@pytest.mark.parametrize("text", VECTORS["refusedDecimals"], ids=ascii)
def test_what_is_no_decimal_in_range_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must (be|not be|have) "):
        plain_decimal(text)


@given(plain=plain_decimals(), data=st.data())
def test_equal_decimals_in_any_spelling_give_equal_ids(plain: str, data: st.DataObject) -> None:
    other = data.draw(spellings(plain))
    assert plain_decimal(other) == plain
    assert usage_request_id("c", "s", plain_decimal(other), "1") == usage_request_id("c", "s", plain, "1")
    assert usage_request_id("c", "s", "1", plain_decimal(other)) == usage_request_id("c", "s", "1", plain)


@given(one=plain_decimals(), other=plain_decimals())
@example(one="1", other="1.000000000000000001")
@example(one="1", other="10")
@example(one="0", other="0.1")
def test_unequal_decimals_give_unequal_ids(one: str, other: str) -> None:
    assume(Decimal(one) != Decimal(other))
    assert usage_request_id("c", "s", one, "1") != usage_request_id("c", "s", other, "1")
    assert usage_request_id("c", "s", one, other) != usage_request_id("c", "s", other, one)


@given(
    digits=st.from_regex(r"[+-]?([0-9]{1,45}(\.[0-9]{0,25})?|\.[0-9]{1,25})", fullmatch=True),
    exponent=st.none() | st.integers(-70, 70),
)
def test_plain_decimal_agrees_with_the_decimal_module(digits: str, exponent: int | None) -> None:
    text = digits if exponent is None else f"{digits}e{exponent}"
    value = EXACT.create_decimal(text)
    try:
        plain = plain_decimal(text)
    except ValueError:
        assert not in_range(value)
    else:
        assert in_range(value)
        assert Decimal(plain) == value
        assert re.fullmatch(r"0|[1-9][0-9]*|(0|[1-9][0-9]*)\.[0-9]*[1-9]", plain)


def in_range(value: Decimal) -> bool:
    """Whether a decimal is not negative and has at most 38 digits, at most 18 of them after the point."""
    if value.is_zero():
        return True
    normal = value.normalize(EXACT)
    exponent = int(normal.as_tuple().exponent)
    whole, fraction = max(normal.adjusted() + 1, 0), max(-exponent, 0)
    return value > 0 and fraction <= 18 and whole + fraction <= 38


@given(st.text() | st.text("0123456789.eE+-_ \u0663\uff11"))
def test_any_text_is_a_decimal_or_refused(text: str) -> None:
    try:
        plain = plain_decimal(text)
    except ValueError:
        return
    assert Decimal(plain) == EXACT.create_decimal(text)


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "1e" + "9" * 100_000, "0." + "0" * 100_000 + "1e-7"])
def test_a_giant_exponent_costs_neither_time_nor_memory(text: str) -> None:
    tracemalloc.start()
    try:
        started = time.process_time()
        with pytest.raises(ValueError, match="digits"):
            plain_decimal(text)
        assert time.process_time() - started < 5  # writing out such a number would take hours
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_giant_exponent_that_the_digits_make_up_for_is_a_number_like_any_other() -> None:
    assert plain_decimal("0." + "0" * 50_000 + "15e50002") == "15"
    assert plain_decimal("15" + "0" * 50_000 + "e-50000") == "15"


@given(legal_text, legal_text, legal_text, legal_text)
def test_the_id_is_the_hash_of_the_canonical_json(customer: str, service: str, units: str, event: str) -> None:
    parts = ["usage.v1", customer, service, units, "1"]
    assert usage_request_id(customer, service, units, "1") == sha256(canonical(parts)).hexdigest()
    assert event_request_id(customer, event) == sha256(canonical(["event.v1", customer, event])).hexdigest()


def canonical(parts: list[str]) -> bytes:
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()


def test_a_new_customer_id_holds_a_uuid_of_version_7_made_now() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_customer_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 1000
    for id_ in ids:
        value = UUID(id_.removeprefix("cus_"))
        assert id_ == f"cus_{value}"
        assert (value.variant, value.version) == ("specified in RFC 4122", 7)
        assert before <= value.int >> 80 <= after
    assert [id_[:17] for id_ in ids] == sorted(id_[:17] for id_ in ids)  # they sort by the time they were made
