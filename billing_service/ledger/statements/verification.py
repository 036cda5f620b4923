"""Verifies pieces and issued statements: recomputes content hashes and trees, and names the records that differ."""

from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from billing_client.contract.request_parsing import BEGINNING
from billing_client.contract.statements.checks import verify_statement
from billing_client.contract.statements.digests import PIECE, digest_of_pieces
from billing_client.contract.statements.merkle import Frontier, split_hashes, tree_root
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.statements.issued import find_issued
from billing_service.ledger.statements.lines import Lines, add_arrays
from billing_service.ledger.statements.pieces import QUERIES, ids_of, read_spans, without_jit
from billing_service.ledger.statements.proofs import issued_roots
from billing_service.ledger.statements.refreshing import span_difference, stored_leaves

_ISSUED = load_queries("issued_statements")
# Pieces, or statements, read at a time. Each page is a query of its own: through a cursor a cluster would first gather
# all of them at one node.
PAGE = 100


async def verify_pieces(connection: Connection) -> tuple[int, list[str]]:
    """How many pieces there are, and one line of text for each difference between them and the records.

    A record that came after its piece was made is no difference. The connection is in a transaction of one snapshot.
    """
    await without_jit(connection)
    checked, differences = 0, []
    last = ("", BEGINNING)
    while pieces := await connection.fetch(QUERIES["newest_pieces"], *last, PAGE):
        last = pieces[-1]["customer_id"], pieces[-1]["bucket"]
        checked += len(pieces)
        for piece in pieces:
            differences += [
                f"customer {piece['customer_id']!r}, usage of three hours from {piece['bucket'].isoformat()}: {what}"
                for what in await _check_piece(connection, piece)
            ]
    return checked, differences + await _wrong_parts(connection)


async def _wrong_parts(connection: Connection) -> list[str]:
    wrong = []
    last: tuple[object, ...] = ("", BEGINNING, 0, BEGINNING, BEGINNING)
    while parts := await connection.fetch(QUERIES["all_parts"], *last, PAGE):
        last = tuple(parts[-1][name] for name in ("customer_id", "bucket", "run", "starts_at", "ends_at"))
        for part in parts:
            if not await _is_right(connection, part):
                span = f"{part['starts_at'].isoformat()} to {part['ends_at'].isoformat()}"
                wrong.append(f"customer {part['customer_id']!r}, part of a piece from {span}: it is not as its records")
    return wrong


async def _check_piece(connection: Connection, piece: asyncpg.Record) -> list[str]:
    customer_id, bucket = piece["customer_id"], piece["bucket"]
    leaves = await stored_leaves(connection, customer_id, bucket, piece["run"])
    (span,) = await read_spans(connection, customer_id, [(bucket, bucket + PIECE)])
    found = [*_changed_voids(span, set(split_hashes(piece["voids"])))]
    if (len(leaves), tree_root(leaves)) != (piece["records"], piece["root"]):
        found.append("the stored content hashes do not give the root of its tree")
    if not await _has_lines(piece, leaves, span):
        found.append("its lines are not what its records add up to")
    difference = span_difference(span, set(leaves))
    if difference.unknown:
        rows = await connection.fetch(QUERIES["recorded_before"], customer_id, difference.added, piece["made_at"])
        changed = [row["request_id"].hex() for row in rows]
        found += [f"record {id_} is not as it was when it was hashed" for id_ in changed]
        if (gone := difference.unknown - len(changed)) > 0:
            found.append(f"{gone} records that were hashed are not there any more, or were changed and voided")
    return found


async def _is_right(connection: Connection, part: asyncpg.Record) -> bool:
    """Whether a stored part of a piece is what the leaves and the records give."""
    customer_id = part["customer_id"]
    (span,) = await read_spans(connection, customer_id, [(part["starts_at"], part["ends_at"])])
    inside = {*split_hashes(span["leaves"]), *split_hashes(span["voided_leaves"])}
    leaves = await stored_leaves(connection, customer_id, part["bucket"], part["run"])
    within = [leaf for leaf in leaves if leaf in inside]
    root = Frontier(part["records"], part["subtrees"]).root()
    return (len(within), tree_root(within)) == (part["records"], root) and await _has_lines(part, within, span)


async def _has_lines(stored: asyncpg.Record, leaves: list[bytes], span: asyncpg.Record) -> bool:
    """Whether stored lines are those of the records; of records that came or went since then it is not known."""
    if leaves != split_hashes(span["leaves"]):
        return True
    lines: tuple[Lines, Lines] = ({}, {})
    for each, row in zip(lines, (stored, span), strict=True):
        await add_arrays(each, [row])
    return lines[0] == lines[1]


def _changed_voids(span: asyncpg.Record, before: set[bytes]) -> Iterator[str]:
    """What is said of voids that were changed or removed."""
    now = dict(zip(split_hashes(span["voids"]), ids_of(span["voided_ids"]), strict=True))
    if missing := len(before - now.keys()):
        others = [id_.hex() for hash_, id_ in now.items() if hash_ not in before]
        yield f"{missing} voids are not as they were when they were hashed" + (
            f": of the records {', '.join(others)}" if others else ", or were removed"
        )


async def verify_issued(connection: Connection, key_set: Mapping[str, Any] | None) -> tuple[int, list[str]]:
    """How many statements were issued, and one line of text for each fault of one.

    Args:
        connection: A connection in a transaction of one snapshot.
        key_set: The public keys that check signatures; None to leave them unchecked.
    """
    checked, faults = 0, []
    last = ("", 0)
    while rows := await connection.fetch(_ISSUED["all_issued"], *last, PAGE):
        last = rows[-1]["customer_id"], rows[-1]["number"]
        checked += len(rows)
        for row in rows:
            faults += [
                f"customer {row['customer_id']!r}, statement {row['number']}: {fault}"
                for fault in await _check_issued(connection, row["customer_id"], row["number"], key_set)
            ]
    return checked, faults


async def _check_issued(
    connection: Connection, customer_id: str, number: int, key_set: Mapping[str, Any] | None
) -> list[str]:
    issued = await find_issued(connection, customer_id, number=number)
    if issued is None:
        return ["it is not there any more"]
    try:
        is_signed = issued.read().signature is not None
        check = verify_statement(issued.document, key_set=key_set if is_signed else None)
    except ValueError as error:
        return [f"its document is no statement: {error}"]
    statement, runs = check.statement, dict(zip(issued.buckets, issued.runs, strict=True))
    roots = await issued_roots(connection, customer_id, runs, (statement.from_, statement.to))
    faults = list(check.faults)
    if {statement.digest, issued.listed.digest} != {digest_of_pieces(roots).hex()}:
        faults.append("its digest is not that of the pieces it was put together from")
    if statement.total != issued.listed.total:
        faults.append("its total is not that of the list")
    return faults
