"""Proves that a record counts in a statement, by the audit path of its content hash (RFC 9162, section 2.1.3)."""

from datetime import datetime
from zoneinfo import ZoneInfo

from billing_client.contract.periods import Month, day_at, read_month
from billing_client.contract.problems import ProblemError, problem, usage_not_found
from billing_client.contract.statements.content_hashes import record_hash
from billing_client.contract.statements.digests import PIECE, PieceRoot, inclusion_proof, piece_start
from billing_client.contract.statements.merkle import split_hashes, tree_root
from billing_client.contract.statements.structs import InclusionProof
from billing_client.contract.wire import UsageRecord
from billing_service.database.pool import Connection
from billing_service.ledger.periods import floor
from billing_service.ledger.records import find_record
from billing_service.ledger.rollups import EARLIEST
from billing_service.ledger.statements.issued import Issued, find_issued
from billing_service.ledger.statements.pieces import QUERIES, Piece, read_pieces, read_spans, without_jit
from billing_service.ledger.statements.refreshing import stored_leaves


async def month_of_record(connection: Connection, customer_id: str, request_id: bytes, timezone: str) -> Month | None:
    """The month in which a record is billed, by its request id (32 bytes); None if the customer has no such record."""
    record = await find_record(connection, customer_id, request_id)
    if record is None:
        return None
    day = day_at(max(record.occurred_at, EARLIEST), ZoneInfo(timezone))
    return read_month(customer_id, day.isoformat()[:7], timezone, "query/")


async def find_proof(connection: Connection, month: Month, request_id: bytes, digest: bytes) -> InclusionProof[str]:
    """Prove that a record counts in a statement.

    Args:
        connection: A connection without an open transaction.
        month: The month in which the record is billed, as it stands.
        request_id: The request id of the record, 32 bytes.
        digest: The digest of the statement, 32 bytes: of one that was issued, or of the month.

    Raises:
        ProblemError: 404; there is no such record or statement, or the statement does not count the record as it is
            stored now.
        NotPreparedError: More has to be hashed than a reading may take the time for.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await without_jit(connection)
        record = await find_record(connection, month.customer_id, request_id)
        if record is None:
            raise ProblemError(usage_not_found(request_id.hex()))
        issued = await find_issued(connection, month.customer_id, digest=digest)
        if issued is not None:
            return await _prove_issued(connection, record, issued)
        return await _prove_provisional(connection, record, digest, month)


async def _prove_issued(connection: Connection, record: UsageRecord[str], issued: Issued) -> InclusionProof[str]:
    statement, bucket = issued.read(), floor(record.occurred_at, PIECE)
    runs = dict(zip(issued.buckets, issued.runs, strict=True))
    if bucket not in runs or not statement.from_ <= record.occurred_at < statement.to:
        raise _not_counted(statement.digest)
    leaves = await _leaves(connection, record.customer_id, bucket, runs[bucket], (statement.from_, statement.to))
    pieces = await issued_roots(connection, record.customer_id, runs, (statement.from_, statement.to))
    return _prove(record, leaves, pieces, statement.from_, statement.digest)


async def _leaves(
    connection: Connection, customer_id: str, bucket: datetime, run: int, within: tuple[datetime, datetime]
) -> list[bytes]:
    """The leaves of a piece at a run: of one that the month cuts, those of the records within the month."""
    leaves = await stored_leaves(connection, customer_id, bucket, run)
    start, end = within
    if start <= bucket and bucket + PIECE <= end:
        return leaves
    (span,) = await read_spans(connection, customer_id, [(max(bucket, start), min(bucket + PIECE, end))])
    inside = {*split_hashes(span["leaves"]), *split_hashes(span["voided_leaves"])}
    return [leaf for leaf in leaves if leaf in inside]


async def issued_roots(
    connection: Connection, customer_id: str, runs: dict[datetime, int], within: tuple[datetime, datetime]
) -> list[PieceRoot]:
    """The pieces of an issued statement that count something, in order of time."""
    start, end = within
    roots = []
    for row in await connection.fetch(QUERIES["piece_roots"], customer_id, list(runs), list(runs.values())):
        bucket, records, root = row["bucket"], row["records"], row["root"]
        if bucket < start or bucket + PIECE > end:
            leaves = await _leaves(connection, customer_id, bucket, row["run"], within)
            records, root = len(leaves), tree_root(leaves)
        if records:
            roots.append(PieceRoot(max(bucket, start), records, root))
    return roots


async def _prove_provisional(
    connection: Connection, record: UsageRecord[str], digest: bytes, month: Month
) -> InclusionProof[str]:
    pieces = [piece for piece in await read_pieces(connection, *month.range) if piece.records]
    own = next((piece for piece in pieces if piece.start <= record.occurred_at < piece.end), None)
    leaves = [] if own is None else await _current_leaves(connection, record.customer_id, own)
    return _prove(record, leaves, [piece.root for piece in pieces], month.start, digest.hex())


async def _current_leaves(connection: Connection, customer_id: str, piece: Piece) -> list[bytes]:
    if piece.span is not None:
        return split_hashes(piece.span["leaves"])
    if piece.run is None or not piece.is_whole:
        (span,) = await read_spans(connection, customer_id, [(piece.start, piece.end)])
        return split_hashes(span["leaves"])
    leaves = await stored_leaves(connection, customer_id, piece.bucket, piece.run)
    return leaves + [row["hash"] for row in piece.arrivals]


def _prove(
    record: UsageRecord[str], leaves: list[bytes], pieces: list[PieceRoot], start: datetime, digest: str
) -> InclusionProof[str]:
    at, hash_ = piece_start(record.occurred_at, start), record_hash(record)
    place = next((number for number, piece in enumerate(pieces) if piece.start == at), None)
    if place is None or hash_ not in leaves:
        raise _not_counted(digest)
    proof = inclusion_proof(record, hash_, leaves, pieces, place)
    if proof.digest != digest:
        detail = (
            "No statement with this digest was issued to this customer, and the month of this record as it stands has "
            "another one. Read the statement again, or issue it."
        )
        raise ProblemError(problem("statement_not_found", detail))
    return proof


def _not_counted(digest: str) -> ProblemError:
    detail = (
        f"The statement {digest[:16]}… does not count this record as it is stored now: it was recorded later, was "
        "voided before, is of another month, or was changed in the database (billing-service verify tells)."
    )
    return ProblemError(problem("usage_not_counted", detail))
