"""API keys, `bk_<key id>_<secret>`: made, listed and revoked here. What a request may do with one is in `callers`.

The secret has 256 random bits. So its plain SHA-256 is kept: no dictionary helps against it, and a slow hash would only
slow the service down (NIST SP 800-63B-3, section 5.1.2.2: secrets of 112 bits and more are hashed with an approved
one-way function; only for fewer must that be a slow one).
"""

import re
import secrets
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Literal, NamedTuple, get_args

import asyncpg
from msgspec import Meta, Struct

from billing_client.contract.wire import NO_CONTROL_CHARACTERS, Id
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries

Scope = Literal["usage:write", "usage:read", "usage:void", "customers:write", "customers:read", "admin"]
"""What a caller needs to be permitted; `admin` is all of it."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
KeyName = Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_CONTROL_CHARACTERS)]
_KEY_ID_BYTES, _SECRET_BYTES = 8, 32
_QUERIES = load_queries("api_keys")
# the scheme is case-insensitive (RFC 9110, section 11.1); the rest has one form, so that few texts stand for one key
_CREDENTIALS = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] {1,4}bk_([0-9a-f]{16})_([0-9a-f]{64}) {0,4}")


class NewKey(Struct, frozen=True, kw_only=True):
    """What a key is to be. Bound to a customer, it reaches nothing of any other."""

    name: KeyName
    scopes: tuple[Scope, ...]
    customer_id: Id | None = None
    expires_at: datetime | None = None


class Key(Struct, rename="camel", frozen=True, kw_only=True):
    """A key as it may be shown."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    customer_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Credentials(NamedTuple):
    """What a caller shows: whose key it says it is, and the proof."""

    key_id: str
    secret_sha256: bytes


def read_credentials(authorization: bytes) -> Credentials | None:
    """What an `Authorization` header shows, None where it is not the form of a key."""
    match = _CREDENTIALS.fullmatch(authorization)
    return None if match is None else Credentials(match[1].decode(), sha256(match[2]).digest())


def key_name(key_id: bytes | None) -> str | None:
    """The name of a key in records, `bk_` and its id, from the 8 bytes that are stored; None for no key."""
    return None if key_id is None else f"bk_{key_id.hex()}"


def key_id_bytes(name: str | None) -> bytes | None:
    """What is stored of a key's name."""
    return None if name is None else bytes.fromhex(name[3:])


async def create_key(connection: Connection, new: NewKey) -> tuple[Key, str]:
    """Make a key; with it comes the text to hand over, which is kept nowhere."""
    key_id, secret = secrets.token_hex(_KEY_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    key = Key(
        id=key_id,
        name=new.name,
        scopes=new.scopes,
        customer_id=new.customer_id,
        created_at=datetime.now(UTC),
        expires_at=new.expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    digest = sha256(secret.encode()).digest()
    await connection.execute(
        _QUERIES["insert_key"], key_id, digest, key.name, key.scopes, key.customer_id, key.created_at, key.expires_at
    )
    return key, f"bk_{key_id}_{secret}"


async def list_keys(connection: Connection) -> list[Key]:
    """All keys that were ever made."""
    return [_key(row) for row in await connection.fetch(_QUERIES["list_keys"])]


async def revoke_key(connection: Connection, key_id: str) -> Key | None:
    """End a key for good; None where there is none with this id. Processes notice within seconds."""
    row = await connection.fetchrow(_QUERIES["revoke_key"], key_id, datetime.now(UTC))
    return None if row is None else _key(row)


def _key(row: asyncpg.Record) -> Key:
    return Key(
        id=row["key_id"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        customer_id=row["customer_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )


async def find_keys(connection: Connection, key_ids: list[str]) -> list[asyncpg.Record]:
    """The rows of these keys, good or not, in no order."""
    return await connection.fetch(_QUERIES["find_keys"], key_ids)


async def note_use(connection: Connection, key_ids: list[str], now: datetime, unless_after: datetime) -> None:
    """Write down that keys were used, unless that was done lately."""
    await connection.execute(_QUERIES["note_use"], key_ids, now, unless_after)
