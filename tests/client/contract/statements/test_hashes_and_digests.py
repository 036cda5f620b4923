"""Content hashes, Merkle trees and digests: the vectors that ship with the client, and what must hold of each."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import billing_client
from billing_client.contract.statements.content_hashes import record_content, record_hash, void_content, void_hash
from billing_client.contract.statements.digests import (
    PieceRoot,
    check_inclusion,
    digest_of_records,
    inclusion_proof,
    piece_start,
)
from billing_client.contract.statements.merkle import EMPTY_ROOT, Frontier, audit_path, root_by_path, tree_root
from billing_client.contract.statements.structs import InclusionProof
from billing_client.contract.wire import UsageRecord, VoidedUsage

FOLDER = Path(billing_client.__file__).parent / "contract" / "statements"
HASHES: dict[str, Any] = json.loads((FOLDER / "content_hash_vectors.json").read_text("utf-8"))
DIGESTS: dict[str, Any] = json.loads((FOLDER / "digest_vectors.json").read_text("utf-8"))
RECORDS = [msgspec.convert(vector["record"], UsageRecord[str]) for vector in HASHES["records"]]
leaves = st.lists(st.binary(max_size=8), max_size=70)


@pytest.mark.parametrize("vector", HASHES["records"])
def test_the_hash_of_a_record(vector: dict[str, Any]) -> None:
    record = msgspec.convert(vector["record"], UsageRecord[str])
    assert record_content(record).decode() == vector["canonical"]
    assert record_hash(record).hex() == vector["contentHash"] == sha256(vector["canonical"].encode()).hexdigest()


@pytest.mark.parametrize("vector", HASHES["voids"])
def test_the_hash_of_a_void(vector: dict[str, Any]) -> None:
    void = msgspec.convert(vector["void"], VoidedUsage[str])
    assert void_content(void).decode() == vector["canonical"]
    assert void_hash(void).hex() == vector["contentHash"] == sha256(vector["canonical"].encode()).hexdigest()


def test_whatever_of_a_record_changes_so_does_its_hash_but_for_the_void() -> None:
    record = RECORDS[1]
    later = datetime(2026, 11, 5, tzinfo=UTC)
    changes: dict[str, Any] = {
        "request_id": "0" * 64,
        "customer_id": "other",
        "service": "other",
        "units_consumed": "2",
        "price_per_unit": "2",
        "event_id": "other",
        "occurred_at": later,
        "recorded_at": later,
        "recorded_by": None,
        "dimensions": {"model": "large"},
    }
    same: dict[str, Any] = {"amount": "7", "voided_at": later}
    assert changes.keys() | same.keys() == set(UsageRecord.__struct_fields__)
    hashes = {record_hash(msgspec.structs.replace(record, **{name: value})) for name, value in changes.items()}
    assert len(hashes | {record_hash(record)}) == len(changes) + 1
    assert {record_hash(msgspec.structs.replace(record, **{name: value})) for name, value in same.items()} == {
        record_hash(record)
    }


@pytest.mark.parametrize("vector", DIGESTS["trees"])
def test_a_tree_of_certificate_transparency(vector: dict[str, Any]) -> None:
    assert tree_root(map(bytes.fromhex, vector["leaves"])).hex() == vector["root"]


@pytest.mark.parametrize("vector", DIGESTS["statements"])
def test_the_digest_of_records_in_any_order(vector: dict[str, Any]) -> None:
    records = msgspec.convert(vector["records"], list[UsageRecord[str]])
    start = datetime.fromisoformat(vector["from"])
    assert digest_of_records(records, start).hex() == vector["digest"]
    assert digest_of_records(reversed(records), start).hex() == vector["digest"]


def _root(data: list[bytes]) -> bytes:
    """The root, computed as RFC 9162, section 2.1.1, defines it."""
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return sha256(b"\0" + data[0]).digest()
    split = 1 << (len(data) - 1).bit_length() - 1
    return sha256(b"\1" + _root(data[:split]) + _root(data[split:])).digest()


@given(leaves, leaves)
def test_a_tree_grows_as_if_it_had_been_built_at_once(first: list[bytes], more: list[bytes]) -> None:
    tree = Frontier()
    tree.extend(first)
    assert tree.root() == _root(first)
    grown = Frontier(tree.size, tree.subtrees)
    grown.extend(more)
    assert grown.root() == tree_root([*first, *more]) == _root([*first, *more])


@given(leaves.filter(bool), st.data())
def test_a_path_leads_from_its_leaf_alone_to_the_root(data: list[bytes], draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, len(data) - 1))
    path = audit_path(data, index)
    root = tree_root(data)
    assert len(path) <= (len(data) - 1).bit_length()
    assert root_by_path(data[index], index, len(data), path) == root
    assert root_by_path(data[index] + b"!", index, len(data), path) != root
    with pytest.raises(ValueError, match="too long"):
        root_by_path(data[index], index, len(data), [*path, root])
    if path:
        with pytest.raises(ValueError, match="too short"):
            root_by_path(data[index], index, len(data), path[:-1])


def test_what_is_no_tree() -> None:
    with pytest.raises(ValueError, match="2 full subtrees"):
        Frontier(3, bytes(32))
    with pytest.raises(ValueError, match="outside"):
        root_by_path(b"", 1, 1, [])
    with pytest.raises(IndexError):
        audit_path([], 0)
    assert tree_root([]) == EMPTY_ROOT


def proved() -> tuple[InclusionProof[str], bytes]:
    """A proof, and the digest of its statement."""
    vector = DIGESTS["statements"][-1]
    records = msgspec.convert(vector["records"], list[UsageRecord[str]])
    start = datetime.fromisoformat(vector["from"])
    pieces: dict[datetime, list[UsageRecord[str]]] = {}
    for each in sorted(records, key=lambda each: (each.recorded_at, each.request_id)):
        pieces.setdefault(piece_start(each.occurred_at, start), []).append(each)
    hashes = {at: [record_hash(each) for each in piece] for at, piece in sorted(pieces.items())}
    roots = [PieceRoot(at, len(piece), tree_root(piece)) for at, piece in hashes.items()]
    at, piece = list(pieces.items())[2]
    return inclusion_proof(piece[1], record_hash(piece[1]), hashes[at], roots, 2), bytes.fromhex(vector["digest"])


def test_a_proof_holds_of_its_record_and_its_digest_alone() -> None:
    proof, digest = proved()
    assert len(proof.piece.path) == 2
    check_inclusion(proof, digest.hex())
    replace = msgspec.structs.replace
    with pytest.raises(ValueError, match="leads to the digest"):
        check_inclusion(proof, "0" * 64)
    dearer = replace(proof.record, price_per_unit="0.6")
    with pytest.raises(ValueError, match="not the one that was hashed"):
        check_inclusion(replace(proof, record=dearer), digest.hex())
    with pytest.raises(ValueError, match="leads to the digest"):
        check_inclusion(replace(proof, record=dearer, content_hash=record_hash(dearer).hex()), digest.hex())
    moved = replace(proof.piece, start=proof.piece.start + timedelta(hours=3))
    with pytest.raises(ValueError, match="leads to the digest"):
        check_inclusion(replace(proof, piece=moved), digest.hex())
