"""Verifies pieces and issued statements: recomputes content hashes and trees, and names the records that differ."""

from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from billing_client.contract.statements.checks import verify_statement
from billing_client.contract.statements.digests import PIECE, digest_of_pieces
from billing_client.contract.statements.merkle import split_hashes, tree_root
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.ledger.statements.issued import find_issued
from billing_service.ledger.statements.pieces import QUERIES, ids_of, read_spans, without_jit
from billing_service.ledger.statements.proofs import issued_roots
from billing_service.ledger.statements.refreshing import span_difference, stored_leaves

_ISSUED = load_queries("issued_statements")
CHUNK = 100  # pieces, or statements, fetched at a time


async def verify_pieces(connection: Connection) -> tuple[int, list[str]]:
    """How many pieces there are, and one line of text for each difference between them and the records.

    A record that came after its piece was made is no difference. The connection is in a transaction of one snapshot.
    """
    await without_jit(connection)
    checked, differences = 0, []
    async for piece in connection.cursor(QUERIES["newest_pieces"], prefetch=CHUNK):
        checked += 1
        differences += [
            f"customer {piece['customer_id']!r}, usage of three hours from {piece['bucket'].isoformat()}: {what}"
            for what in await _check_piece(connection, piece)
        ]
    return checked, differences


async def _check_piece(connection: Connection, piece: asyncpg.Record) -> list[str]:
    customer_id, bucket = piece["customer_id"], piece["bucket"]
    leaves = await stored_leaves(connection, customer_id, bucket, piece["run"])
    (span,) = await read_spans(connection, customer_id, [(bucket, bucket + PIECE)])
    found = [*_changed_voids(span, set(split_hashes(piece["voids"])))]
    if (len(leaves), tree_root(leaves)) != (piece["records"], piece["root"]):
        found.append("the stored content hashes do not give the root of its tree")
    difference = span_difference(span, set(leaves))
    if difference.unknown:
        rows = await connection.fetch(QUERIES["recorded_before"], customer_id, difference.added, piece["made_at"])
        changed = [row["request_id"].hex() for row in rows]
        found += [f"record {id_} is not as it was when it was hashed" for id_ in changed]
        if (gone := difference.unknown - len(changed)) > 0:
            found.append(f"{gone} records that were hashed are not there any more, or were changed and voided")
    return found


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
    async for row in connection.cursor(_ISSUED["all_issued"], prefetch=CHUNK):
        checked += 1
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
