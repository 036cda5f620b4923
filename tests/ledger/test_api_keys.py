"""Stored API keys: only the hash of a secret is kept."""

import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TypeAlias

import asyncpg
import pytest

from billing_client.contract.problems import ProblemError
from billing_service.ledger.api_keys import NewKey, create_key, list_keys, read_credentials, revoke_key

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
KEY = b"bk_0123456789abcdef_" + b"0f" * 32


async def test_of_a_secret_only_its_hash_is_kept(connection: Connection) -> None:
    key, text = await create_key(connection, NewKey(name="nightly job", scopes=("usage:write",)))
    assert re.fullmatch(r"bk_[0-9a-f]{16}_[0-9a-f]{64}", text)
    secret = text.split("_")[2]
    row = await connection.fetchrow("SELECT api_keys::text AS everything, secret_sha256 FROM api_keys")
    assert row is not None
    assert row["secret_sha256"] == sha256(secret.encode()).digest()
    assert key.id in row["everything"]
    assert secret not in row["everything"]


async def test_no_two_keys_are_alike(connection: Connection) -> None:
    made = [await create_key(connection, NewKey(name="one", scopes=("admin",))) for _ in range(20)]
    assert len({part for _, text in made for part in text.split("_")[1:]}) == 40


async def test_keys_are_listed_in_the_order_they_were_made(connection: Connection) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    bound = NewKey(name="Acme", scopes=("usage:write", "usage:read"), customer_id="acme", expires_at=expires_at)
    await connection.execute("INSERT INTO customers VALUES ('acme', 'Acme', now(), now())")
    first, _ = await create_key(connection, NewKey(name="everything", scopes=("admin",)))
    second, _ = await create_key(connection, bound)
    assert await list_keys(connection) == [first, second]
    assert (second.name, second.scopes, second.customer_id, second.expires_at) == (
        bound.name,
        bound.scopes,
        bound.customer_id,
        expires_at,
    )
    assert (second.revoked_at, second.last_used_at) == (None, None)


async def test_no_key_is_bound_to_a_customer_that_does_not_exist(connection: Connection) -> None:
    bound = NewKey(name="Acme", scopes=("usage:write",), customer_id="acme")
    with pytest.raises(ProblemError) as caught:
        await create_key(connection, bound)
    assert caught.value.details.code == "customer_not_found"
    assert await list_keys(connection) == []


async def test_the_first_revocation_counts(connection: Connection) -> None:
    key, _ = await create_key(connection, NewKey(name="one", scopes=("admin",)))
    revoked = await revoke_key(connection, key.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await revoke_key(connection, key.id) == revoked
    assert await list_keys(connection) == [revoked]
    assert await revoke_key(connection, "0" * 16) is None


@pytest.mark.parametrize("authorization", [b"Bearer " + KEY, b"bearer " + KEY, b"BEARER    " + KEY + b"    "])
def test_the_scheme_may_be_written_in_any_case(authorization: bytes) -> None:
    credentials = read_credentials(authorization)
    assert credentials is not None
    assert credentials.key_id == "0123456789abcdef"
    assert credentials.secret_sha256 == sha256(b"0f" * 32).digest()


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        KEY,
        b"Basic " + KEY,
        b"Bearer" + KEY,
        b"Bearer\t" + KEY,
        b"Bearer " + KEY[:-1],
        b"Bearer " + KEY + b"0",
        b"Bearer " + KEY + b"\n",
        b"Bearer " + KEY.upper(),
        b"Bearer " + KEY.replace(b"_", b"-"),
        b"Bearer " + KEY.replace(b"bk", b"sk"),
        b"Bearer " + KEY[:10] + b"\xff" + KEY[11:],
        b"Bearer     " + KEY,
        b"Bearer " + KEY + b", Bearer " + KEY,
    ],
)
def test_what_has_not_the_form_of_a_key(authorization: bytes) -> None:
    assert read_credentials(authorization) is None


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO api_keys VALUES ('a', '\\x00', 'n', '{admin}', NULL, now())", "api_keys_secret_sha256_check"),
        ("INSERT INTO api_keys VALUES ('a', sha256('a'), 'n', '{}', NULL, now())", "api_keys_scopes_check"),
    ],
)
async def test_the_database_takes_no_broken_key(connection: Connection, statement: str, constraint: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(statement)
