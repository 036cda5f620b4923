"""Statements, keys and proofs that are made to mislead: each is refused in words, and takes no time."""

import base64
import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from billing_client import InclusionProof, UsageRecord, check_inclusion, verify_statement
from billing_client.contract.statements.content_hashes import record_hash
from billing_client.contract.statements.signatures import KeysError, SigningKeys
from tests.client.answers import STORED
from tests.client.test_broken_peers import PROOF, STATEMENT

KEY = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SIGNER = SigningKeys(KEY)
DOCUMENT = STATEMENT | {"digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
SIGNED = DOCUMENT | {"signature": SIGNER.sign(DOCUMENT)}
KEYS = SIGNER.public()
KID = KEYS["keys"][0]["kid"]
LINE = {"service": "s", "pricePerUnit": "1", "records": 1, "units": "1", "amount": "1"}


def as_bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def header(**members: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()


def test_the_document_itself_holds() -> None:
    check = verify_statement(as_bytes(SIGNED), key_set=KEYS)
    assert (check.faults, check.signed_by) == ([], KID)


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "none", "kid": KID},
        {"alg": "HS256", "kid": KID},
        {"alg": "EdDSA", "kid": KID},
        {"alg": "Ed25519", "kid": [KID]},
        {"alg": "Ed25519", "kid": {}},
        {"alg": "Ed25519"},
        {"alg": "Ed25519", "kid": KID, "crit": ["x"]},
        {"alg": "Ed25519", "kid": KID, "b64": False, "crit": ["b64"]},
    ],
)
def test_a_header_that_is_not_ours_is_no_signature(head: dict[str, Any]) -> None:
    forged = DOCUMENT | {"signature": f"{header(**head)}..{SIGNED['signature'].rpartition('.')[2]}"}
    check = verify_statement(as_bytes(forged), key_set=KEYS)
    assert check.signed_by is None
    assert "the signature does not hold" in check.faults[0]


@pytest.mark.parametrize(
    "keys",
    [[], {"keys": "abc"}, {"keys": [1]}, {"keys": [{"kty": "oct", "k": "AAAA", "kid": KID}]}, {"keys": [{"kty": []}]}],
)
def test_keys_of_another_type_are_no_keys(keys: Any) -> None:
    with pytest.raises(KeysError):
        verify_statement(as_bytes(SIGNED), key_set=keys)


@pytest.mark.parametrize("member", ["currency", "total", "signature"])
def test_a_member_that_is_there_twice_is_refused(member: str) -> None:
    """The signature would be that of the last; another program may show the first."""
    twice = as_bytes(SIGNED).replace(f'"{member}":'.encode(), f'"{member}": "USD", "{member}":'.encode(), 1)
    with pytest.raises(ValueError, match=f"'{member}' is there more than once"):
        verify_statement(twice, key_set=KEYS)


@pytest.mark.parametrize(
    "changes",
    [
        {"lines": [LINE | {"pricePerUnit": "abc"}]},
        {"lines": [LINE | {"pricePerUnit": "0x10"}]},
        {"lines": [LINE | {"pricePerUnit": "1e999999999"}]},
        {"lines": [LINE | {"units": "9" * 100_000, "pricePerUnit": "9" * 100_000}]},
        {"total": {"records": 0, "amount": "NaN", "rounded": "0.00"}},
        {"rounding": {"mode": "half_up", "minorUnit": 10**9}},
        {"rounding": {"mode": "half_up", "minorUnit": -1}},
    ],
)
def test_numbers_that_no_service_writes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        verify_statement(as_bytes(DOCUMENT | changes))


def test_what_is_nested_deeply_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be reckoned with"):
        verify_statement(b'{"customerId":' + b"[" * 100_000, key_set=KEYS)


@pytest.mark.parametrize(
    "changes",
    [{"unitsConsumed": "NaN"}, {"unitsConsumed": "1e999999999"}, {"recordedAt": "0001-01-01T00:00:00+14:00"}],
)
def test_a_record_that_no_service_exports_is_refused(changes: dict[str, Any]) -> None:
    record = msgspec.json.decode(as_bytes(STORED | changes), type=UsageRecord)
    with pytest.raises(ValueError, match=r"."):
        verify_statement(as_bytes(DOCUMENT), records=[record])


@pytest.mark.parametrize(
    "changes",
    [
        {"piece": PROOF["piece"] | {"start": "0001-01-01T00:00:00+14:00"}},
        {"record": STORED | {"unitsConsumed": "1e999999999"}},
        {"record": STORED | {"unitsConsumed": "sNaN"}},
        {"pieces": 2**62, "index": 2**61},
        {"index": 5},
        {"path": ["0" * 64] * 10_000},
    ],
)
def test_a_proof_that_cannot_be_proves_nothing(changes: dict[str, Any]) -> None:
    proof = msgspec.json.decode(as_bytes(PROOF | changes), type=InclusionProof[Decimal])
    if "record" not in changes:
        proof = msgspec.structs.replace(proof, content_hash=record_hash(proof.record).hex())
    with pytest.raises(ValueError, match=r"."):
        check_inclusion(proof, "0" * 64)
