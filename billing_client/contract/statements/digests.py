"""The digest of a statement: the root of a Merkle tree over the content hashes of the records that count in it.

The tree has two levels, so that what a month consists of can be hashed piece by piece as time passes:

1. Time is cut at every third hour of UTC (00:00, 03:00, …). The records of a statement that occurred between two cuts,
   and within the statement's month, are a piece. Time in which no record counts makes no piece.
2. In a piece the records are ordered by (recordedAt, requestId). Their content hashes, 32 bytes each, are the leaves of
   an RFC 9162 tree, whose root is the piece's root.
3. The pieces, in order of time, are the leaves of another RFC 9162 tree, whose root is the digest. The data of such a
   leaf are the UTF-8 bytes of a JSON array of strings, without white space: `["piece.v1",start,records,root]`. `start`
   is the cut before the piece or the statement's `from`, whichever is later, written as in content hashes; `records` is
   how many count in it; `root` its root, in lower-case hex.

The digest of a statement in which nothing counts is the SHA-256 of nothing. `digest_vectors.json` beside this file has
vectors for other languages.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec

from billing_client.contract.decimals import require_numbers
from billing_client.contract.statements.content_hashes import instant_text, record_hash
from billing_client.contract.statements.merkle import audit_path, root_by_path, tree_root
from billing_client.contract.statements.structs import InclusionProof, PiecePlace
from billing_client.contract.wire import UsageRecord

Record = UsageRecord[str] | UsageRecord[Decimal]
PIECE = timedelta(hours=3)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class PieceRoot(NamedTuple):
    """What stands for a piece in the digest.

    Attributes:
        start: The cut before it or the begin of the statement, whichever is later.
        records: How many records count in it, above 0.
        root: The root of their tree, 32 bytes.
    """

    start: datetime
    records: int
    root: bytes

    def leaf(self) -> bytes:
        """The data of its leaf in the tree of the pieces."""
        return _encode(["piece.v1", instant_text(self.start), str(self.records), self.root.hex()])


def piece_start(instant: datetime, start: datetime) -> datetime:
    """When the piece begins that an instant lies in, in a statement that begins at `start`."""
    return max(_EPOCH + (instant - _EPOCH) // PIECE * PIECE, start)


def digest_of_pieces(pieces: Iterable[PieceRoot]) -> bytes:
    """The digest of a statement, from its pieces in order of time."""
    return tree_root(piece.leaf() for piece in pieces)


def digest_of_records(records: Iterable[Record], start: datetime) -> bytes:
    """The digest of a statement, 32 bytes.

    Args:
        records: The records that count in it, in any order: those of the month that are not voided.
        start: When the statement begins.
    """
    pieces: dict[datetime, list[tuple[datetime, str, bytes]]] = {}
    for record in records:
        leaf = (record.recorded_at, record.request_id, record_hash(record))
        pieces.setdefault(piece_start(record.occurred_at, start), []).append(leaf)
    return digest_of_pieces(
        PieceRoot(start, len(leaves), tree_root(hash_ for *_, hash_ in sorted(leaves)))
        for start, leaves in sorted(pieces.items())
    )


def inclusion_proof(
    record: UsageRecord[str], hash_: bytes, leaves: Sequence[bytes], pieces: Sequence[PieceRoot], place: int
) -> InclusionProof[str]:
    """The proof that a record counts in a statement.

    Args:
        record: The record.
        hash_: Its content hash.
        leaves: The content hashes of its piece, in their order.
        pieces: The pieces of the statement, in order of time.
        place: Which of the pieces it is in.

    Raises:
        ValueError: The hash is not among the leaves.
    """
    index = leaves.index(hash_)
    return InclusionProof(
        digest=digest_of_pieces(pieces).hex(),
        content_hash=hash_.hex(),
        record=record,
        piece=PiecePlace(
            start=pieces[place].start,
            records=len(leaves),
            index=index,
            path=[each.hex() for each in audit_path(leaves, index)],
        ),
        pieces=len(pieces),
        index=place,
        path=[each.hex() for each in audit_path([piece.leaf() for piece in pieces], place)],
    )


def check_inclusion(proof: InclusionProof[str] | InclusionProof[Decimal], digest: str) -> None:
    """Check, without the service, that the record in a proof counts in the statement with a digest.

    Args:
        proof: The proof.
        digest: The digest of the statement, 64 lower-case hex digits, from a source that you trust, such as the signed
            statement.

    Raises:
        ValueError: It does not. The message says what is wrong.
    """
    require_numbers(proof)
    try:
        found = _root_of(proof)
    except OverflowError as error:  # of a time at either end of the calendar
        raise ValueError(f"the proof has a time that no record has: {error}") from error
    if found.hex() != digest:
        raise ValueError(f"the proof leads to the digest {found.hex()}, not to {digest}")


def _root_of(proof: InclusionProof[str] | InclusionProof[Decimal]) -> bytes:
    hash_, place = record_hash(proof.record), proof.piece
    if hash_.hex() != proof.content_hash:
        raise ValueError("the record is not the one that was hashed: its content hash is another")
    root = root_by_path(hash_, place.index, place.records, map(bytes.fromhex, place.path))
    leaf = PieceRoot(place.start, place.records, root).leaf()
    return root_by_path(leaf, proof.index, proof.pieces, map(bytes.fromhex, proof.path))
