"""Whoever has the documentation and a SHA-256 can follow it: nothing here uses the client's code, only its vectors."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

import billing_client
from tests.client.contract.statements.test_hashes_and_digests import proved

FOLDER = Path(billing_client.__file__).parent / "contract"
HASHES: dict[str, Any] = json.loads((FOLDER / "statements" / "content_hash_vectors.json").read_text("utf-8"))
DIGESTS: dict[str, Any] = json.loads((FOLDER / "statements" / "digest_vectors.json").read_text("utf-8"))
GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "statements.md"
ALWAYS = {
    "record": ("customerId", "requestId", "service", "unitsConsumed", "pricePerUnit", "occurredAt", "recordedAt"),
    "void": ("customerId", "requestId", "voidedAt", "voidedBy", "voidReason"),
}
SOMETIMES = {"record": ("eventId", "recordedBy"), "void": ("voidedFor",)}


def instant(text: str) -> str:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<6}Z"


def text_of(said: dict[str, Any], kind: str) -> str:
    texts = [f"{kind}.v1", *(instant(said[name]) if name.endswith("At") else said[name] for name in ALWAYS[kind])]
    pairs = {name: said[name] for name in SOMETIMES[kind] if said[name] is not None}
    if kind == "record":
        pairs |= {f"dimension.{name}": value for name, value in said.get("dimensions", {}).items()}
    for name in sorted(pairs):  # Python compares code points
        texts += [name, pairs[name]]
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def utf_16(name: str) -> bytes:
    """Sorts as languages do that compare strings by their UTF-16 code units, which is not the order here."""
    return name.encode("utf-16-be")


def hash_of(said: dict[str, Any]) -> bytes:
    return sha256(text_of(said, "record").encode()).digest()


def root_of(leaves: list[bytes]) -> bytes:
    if len(leaves) < 2:
        return sha256(b"\0" + leaves[0] if leaves else b"").digest()
    left = 1
    while left * 2 < len(leaves):
        left *= 2
    return sha256(b"\1" + root_of(leaves[:left]) + root_of(leaves[left:])).digest()


def leaf_of(start: str, records: int, root: bytes) -> bytes:
    return f'["piece.v1","{instant(start)}","{records}","{root.hex()}"]'.encode()


def digest_of(records: list[dict[str, Any]], start: str) -> bytes:
    pieces: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        day, hour = record["occurredAt"][:11], int(record["occurredAt"][11:13])
        pieces.setdefault(max(f"{day}{hour // 3 * 3:02}:00:00Z", start), []).append(record)
    roots = {}
    for at, piece in pieces.items():
        piece.sort(key=lambda record: (instant(record["recordedAt"]), record["requestId"]))
        roots[at] = root_of([hash_of(record) for record in piece])
    return root_of([leaf_of(at, len(pieces[at]), roots[at]) for at in sorted(pieces)])


def follow(leaf: bytes, index: int, size: int, path: list[str]) -> bytes:
    """RFC 9162, section 2.1.3.2."""
    number, last, root = index, size - 1, sha256(b"\0" + leaf).digest()
    for step in map(bytes.fromhex, path):
        assert last
        if number % 2 or number == last:
            root = sha256(b"\1" + step + root).digest()
            while number % 2 == 0 and number:
                number, last = number // 2, last // 2
        else:
            root = sha256(b"\1" + root + step).digest()
        number, last = number // 2, last // 2
    assert not last
    return root


@pytest.mark.parametrize("kind", ["record", "void"])
def test_content_hashes(kind: str) -> None:
    for vector in HASHES[f"{kind}s"]:
        text = text_of(vector[kind], kind)
        assert text == vector["canonical"]
        assert sha256(text.encode()).hexdigest() == vector["contentHash"]


def test_the_vectors_hold_what_a_record_may_say() -> None:
    records = [vector["record"] for vector in HASHES["records"]]
    for holds in (
        lambda record: "dimensions" in record and record["eventId"] is None,
        lambda record: "dimensions" in record and record["eventId"] and record["recordedBy"],
        lambda record: record["unitsConsumed"].startswith("-"),
        lambda record: record["voidedAt"],
        lambda record: (
            sorted(names := record.get("dimensions", {})) != sorted(names, key=lambda n: n.encode("utf-16-be"))
        ),
    ):
        assert any(holds(record) for record in records)


@pytest.mark.parametrize("vector", DIGESTS["statements"])
def test_digests(vector: dict[str, Any]) -> None:
    assert digest_of(vector["records"], vector["from"]).hex() == vector["digest"]


def test_a_proof() -> None:
    proof = json.loads(msgspec.json.encode(proved()[0]))
    piece = proof["piece"]
    root = follow(hash_of(proof["record"]), piece["index"], piece["records"], piece["path"])
    leaf = leaf_of(piece["start"], piece["records"], root)
    assert follow(leaf, proof["index"], proof["pieces"], proof["path"]).hex() == proof["digest"]


def test_the_guide_shows_vectors() -> None:
    shown = re.findall(r"^\| `(\[.*\])` \| `([0-9a-f]{64})` \|$", GUIDE.read_text("utf-8"), re.MULTILINE)
    vectors = {vector["canonical"]: vector["contentHash"] for kind in ("records", "voids") for vector in HASHES[kind]}
    assert len(shown) == 3
    assert all(vectors[canonical] == hash_ for canonical, hash_ in shown)
