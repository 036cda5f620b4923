"""What the document cannot say in JSON Schema, so that schemathesis does not take it for permitted."""

import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

from billing_client.contract.decimals import plain_decimal
from billing_client.contract.timestamps import read_timestamp

schemathesis.openapi.format("iana-timezone", st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"})))
schemathesis.openapi.format("cursor", st.just(""))  # no stranger can make one; an empty one is the beginning


@schemathesis.hook
def filter_case(_: HookContext, case: Case[Any]) -> bool:
    """Drop what the schema permits and the service refuses: numbers of too many digits, times on the wrong side of now,
    spans that end before they begin."""
    if case.meta is not None and case.meta.generation.mode is not GenerationMode.POSITIVE:
        return not _is_taken_all_the_same(case)
    members = dict(_members([case.body, dict(case.query or {})]))
    span = [_instant(members[name]) for name in ("from", "to") if name in members]
    instants = [instant for instant in span if instant is not None]
    return all(_is_valid(name, value) for name, value in members.items()) and span == sorted(instants)


def _is_taken_all_the_same(case: Case[Any]) -> bool:
    """Whether a body that is not what the document says may be answered with success: in a batch each record is refused
    by itself, and null is taken for a member that is left out."""
    if not isinstance(case.body, dict):
        return False
    is_batch = set(case.body) == {"records"} and isinstance(case.body["records"], list)
    return is_batch or any(value is None for value in case.body.values())


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _members(each)


def _is_valid(name: str, value: Any) -> bool:
    if name in ("unitsConsumed", "pricePerUnit"):
        with suppress(ValueError):
            return bool(plain_decimal(str(value), signed=name == "unitsConsumed"))
        return False
    if name == "occurredAt" and isinstance(value, str):
        instant = _instant(value)
        return instant is not None and instant < datetime.now(UTC) + timedelta(minutes=5)
    if name == "expiresAt" and isinstance(value, str):
        instant = _instant(value)
        return instant is not None and instant > datetime.now(UTC) + timedelta(minutes=5)
    return not isinstance(value, str) or not any(unicodedata.category(each) == "Cc" for each in value)


def _instant(value: str) -> datetime | None:
    with suppress(ValueError):
        return read_timestamp(value)
    return None
