"""Checks a statement without the service: its signature, its arithmetic, and its digest by an export of the records."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from billing_client.contract.decimals import (
    EXACT,
    MAX_FRACTION_DIGITS,
    difference,
    multiply,
    plain,
    require_numbers,
    round_half_up,
    total,
)
from billing_client.contract.statements.digests import Record, digest_of_records
from billing_client.contract.statements.signatures import SignatureError, check_signature
from billing_client.contract.statements.structs import Statement, StatementTotal

Lines = dict[tuple[str, str, bool], tuple[int, str]]


class StatementCheck(Struct, frozen=True):
    """What was found of a statement.

    Attributes:
        statement: The statement.
        signed_by: The `kid` of the key that signed it; None if that was not checked, or does not hold.
        records: How many records of the export count in it; None if no records were given.
        faults: What is wrong, one line of text each. Without any, all that was checked holds.
    """

    statement: Statement[str]
    signed_by: str | None
    records: int | None
    faults: list[str]


def verify_statement(
    document: bytes,
    *,
    records: Iterable[Record] | None = None,
    key_set: Mapping[str, Any] | None = None,
) -> StatementCheck:
    """Check a statement without the service.

    Args:
        document: The statement as JSON. One of an earlier version, whose digest is over request ids, is checked too.
        records: The records of an export that has at least the statement's month of the customer, in any order. None to
            check only what the statement says of itself.
        key_set: The public keys as the service publishes them at `/.well-known/jwks.json`, from a source that you
            trust. None to leave the signature unchecked.

    Raises:
        ValueError: The document is not a statement.
        ImportError: `key_set` was given, and the extra `signatures` is not installed.
    """
    try:
        return _check(document, records, key_set)
    except (ArithmeticError, RecursionError) as error:  # numbers, times and depths that no service writes
        raise ValueError(f"it cannot be reckoned with: {error}") from error


def _check(document: bytes, records: Iterable[Record] | None, key_set: Mapping[str, Any] | None) -> StatementCheck:
    raw = _read_object(document)
    statement = _read_statement(raw)
    faults = arithmetic_faults(statement)
    signed_by = None
    if key_set is not None:
        try:
            signed_by = check_signature(raw, key_set)
        except SignatureError as error:
            faults.insert(0, f"the signature does not hold: {error}")
    counted = None
    if records is not None:
        counted, record_faults = _compare_records(statement, records)
        faults += record_faults
    return StatementCheck(statement, signed_by, counted, faults)


def _read_object(document: bytes) -> dict[str, Any]:
    """A JSON object in which no member is there twice: of two, other programs may show the one that was not signed.

    (RFC 7493, section 2.3, on which RFC 8785 builds.)
    """
    raw = msgspec.json.decode(document)  # stricter than json: UTF-8 without a mark, no NaN, no lone surrogates
    if not isinstance(raw, dict):
        raise ValueError("this is not a statement: it is no JSON object")  # a fault of the document, as msgspec's are
    json.loads(document, object_pairs_hook=_require_each_once)
    return raw


def _require_each_once(members: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in members]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"its member {twice[0]!r} is there more than once")


def _read_statement(raw: dict[str, Any]) -> Statement[str]:
    """Raises ValueError for what is no statement, or has numbers that are none."""
    of_today = _of_today(raw)
    statement = msgspec.convert(of_today, Statement[str])
    require_numbers(msgspec.convert(of_today, Statement[Decimal]))
    if not 0 <= statement.rounding.minor_unit <= MAX_FRACTION_DIGITS:
        raise ValueError(f"no currency has {statement.rounding.minor_unit} digits after the point")
    return statement


def _of_today(raw: dict[str, Any]) -> dict[str, Any]:
    """The statement of an earlier version in the form of today's."""
    if "digestKind" in raw:
        return raw
    return raw | {
        "status": "provisional",
        "digestKind": "request-ids.v1",
        "asOf": raw.get("issuedAt"),
        "changes": None,
    }


def arithmetic_faults(statement: Statement[str]) -> list[str]:
    """What in a statement does not add up."""
    faults = [
        f"service {line.service!r}: {line.units} x {line.price_per_unit} is not {line.amount}"
        for line in [*statement.lines, *statement.credits, *statement.late]
        if line.amount != multiply(line.units, line.price_per_unit)
    ]
    faults += _total_faults("the total", statement.total, statement)
    if statement.changes is not None:
        change = statement.changes.total
        if change.after != statement.total:
            faults.append("the changes: the total after them is not that of the statement")
        owed = difference(change.after.amount, change.before.amount)
        rounded = difference(change.after.rounded, change.before.rounded)
        if (change.difference.amount, plain(Decimal(change.difference.rounded))) != (owed, rounded):
            faults.append("the changes: the difference is not that of the totals")
    if not statement.voided.more:
        voided = total(record.amount for record in statement.voided.data)
        if (statement.voided.total.records, statement.voided.total.amount) != (len(statement.voided.data), voided):
            faults.append("the voided records do not add up to their total")
    return faults


def _total_faults(name: str, stated: StatementTotal[str], statement: Statement[str]) -> list[str]:
    lines = [*statement.lines, *statement.credits]
    amount, records = total(line.amount for line in lines), sum(line.records for line in lines)
    rounded = round_half_up(amount, statement.rounding.minor_unit)
    if (stated.records, stated.amount, stated.rounded) == (records, amount, rounded):
        return []
    says = f"{name} says {stated.records} records, {stated.amount}, rounded {stated.rounded}"
    return [f"{says}; the lines add up to {records} records, {amount}, rounded {rounded}"]


def _compare_records(statement: Statement[str], records: Iterable[Record]) -> tuple[int, list[str]]:
    """How many records count, and what differs from the statement.

    An export may be younger than the statement. So if the records as they are do not give the digest, those are taken
    that were there, and not voided, when it was issued.
    """
    within = [
        record
        for record in map(_with_numbers, records)
        if record.customer_id == statement.customer_id and statement.from_ <= record.occurred_at < statement.to
    ]
    today = [record for record in within if record.voided_at is None]
    if _digest(statement, today) == statement.digest:
        return len(today), _line_faults(statement, today)
    at = statement.issued_at or statement.as_of
    then = [record for record in within if record.recorded_at <= at and _counted(record, at)]
    faults = _line_faults(statement, then)
    if (found := _digest(statement, then)) != statement.digest:
        faults.append(
            f"the {len(then)} records of the export that count give the digest {found}, not {statement.digest}"
        )
    return len(then), faults


def _with_numbers(record: Record) -> Record:
    require_numbers(record)
    return record


def _counted(record: Record, at: datetime) -> bool:
    return record.voided_at is None or record.voided_at > at


def _digest(statement: Statement[str], records: list[Record]) -> str:
    if statement.digest_kind == "merkle.v1":
        return digest_of_records(records, statement.from_).hex()
    return sha256(b"".join(sorted(bytes.fromhex(record.request_id) for record in records))).hexdigest()


def _line_faults(statement: Statement[str], records: list[Record]) -> list[str]:
    stated: Lines = {
        (line.service, line.price_per_unit, line.units.startswith("-")): (line.records, line.units)
        for line in [*statement.lines, *statement.credits]
    }
    found = _lines(records)
    return [
        f"service {service!r} at {price}: statement {_sums(stated.get(key))}; export {_sums(found.get(key))}"
        for key in sorted(stated.keys() | found.keys())
        for service, price, _ in [key]
        if stated.get(key) != found.get(key)
    ]


def _lines(records: list[Record]) -> Lines:
    sums: dict[tuple[str, str, bool], tuple[int, Decimal]] = {}
    for record in records:
        units = Decimal(record.units_consumed)
        key = (record.service, plain(Decimal(record.price_per_unit)), units < 0)
        count, sum_ = sums.get(key, (0, Decimal(0)))
        sums[key] = count + 1, EXACT.add(sum_, units)
    return {key: (count, plain(sum_)) for key, (count, sum_) in sums.items()}


def _sums(sums: tuple[int, str] | None) -> str:
    return "nothing" if sums is None else f"{sums[0]} records of {sums[1]} units"
