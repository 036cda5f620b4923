"""How long a key takes to be refused tells nothing of it: every key takes the same way to its end."""

import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from types import FrameType
from typing import Any

import asyncpg
import pytest

from billing_service.http.auth import _caller
from billing_service.ledger.api_keys import NewKey, create_key, find_keys, read_credentials


def called(row: asyncpg.Record | None, key: str) -> list[Any]:
    """The built-in functions that the check of a key calls, in order."""
    credentials = read_credentials(f"Bearer {key}".encode())
    assert credentials is not None
    calls: list[Any] = []

    def note(_: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            calls.append(function)

    now = datetime.now(UTC)
    sys.setprofile(note)
    try:
        _caller(row, credentials, now)
    finally:
        sys.setprofile(None)
    return calls[:-1]  # the last one ends the profile


@pytest.mark.parametrize("kind", ["unknown", "wrong", "revoked", "right"])
async def test_the_hash_is_compared_in_constant_time_whatever_key_it_is(
    connection: "asyncpg.Connection[asyncpg.Record]", kind: str
) -> None:
    _, text = await create_key(
        connection, NewKey(name="n", scopes=("admin",), expires_at=datetime.now(UTC) + timedelta(1))
    )
    if kind == "revoked":
        await connection.execute("UPDATE api_keys SET revoked_at = now()")
    (row,) = await find_keys(connection, [text.split("_")[1]])
    shown = text[:-1] + ("0" if text[-1] != "0" else "1") if kind == "wrong" else text
    calls = called(None if kind == "unknown" else row, shown)
    assert calls.count(compare_digest) == 1
    assert calls[0] is compare_digest  # nothing is decided before


async def test_what_is_compared_says_nothing_of_the_secret(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """How many bytes of two SHA-256 agree is not in the hand of whoever guesses the secret."""
    _, text = await create_key(connection, NewKey(name="n", scopes=("admin",)))
    (row,) = await find_keys(connection, [text.split("_")[1]])
    secret = text.split("_")[2]
    assert row["secret_sha256"] == sha256(secret.encode()).digest()
    near = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    assert sum(a == b for a, b in zip(sha256(near.encode()).digest(), row["secret_sha256"], strict=True)) < 10
