"""API keys, `bk_<key id>_<secret>`: creates, lists and revokes them. `http.auth` decides what a caller may do.

The database holds only the SHA-256 of a secret. A fast hash is enough: the secret has 256 random bits and cannot be
guessed (NIST SP 800-63B-3, section 5.1.2.2, requires a slow hash only for secrets of less than 112 bits).
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Literal, NamedTuple, get_args

import asyncpg
from msgspec import Meta, structs

from billing_client.contract.problems import ProblemError, customer_not_found
from billing_client.contract.wire import NO_CONTROL_CHARACTERS, Id, Message, Timestamp
from billing_service.database.pool import Connection
from billing_service.database.queries import load_queries
from billing_service.database.replication import commit_without_waiting

Scope = Literal[
    "usage:write",
    "usage:read",
    "usage:void",
    "usage:credit",
    "customers:write",
    "customers:read",
    "statements:issue",
    "admin",
]
"""What a key allows; `admin` allows everything, see `permitted`."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
MUST_BE_NAMED: frozenset[Scope] = frozenset({"usage:credit", "usage:void", "statements:issue"})
"""What lowers or fixes a bill. A key that is bound to a customer may do it only if it names the scope."""

KeyName = Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_CONTROL_CHARACTERS)]
_KEY_ID_BYTES, _SECRET_BYTES = 8, 32
_QUERIES = load_queries("api_keys")
_CUSTOMERS = load_queries("customers")
# The scheme is case-insensitive (RFC 9110, section 11.1). The rest has one form only: each form of a header takes a
# place in the cache of callers.
_CREDENTIALS = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] {1,4}bk_([0-9a-f]{16})_([0-9a-f]{64}) {0,4}")


class KeyRightsError(Exception):
    """The database role may not create or revoke keys. The message is one line that says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "the database role that DATABASE_URL names may not create or revoke keys. Use the owner's DATABASE_URL, or "
            "let the owner run: billing-service migrate --grant-to ROLE --with-keys"
        )


class NewKey(Message, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A key to create. If it is bound to a customer, it reaches no data of any other."""

    name: KeyName
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=len(SCOPES))]
    customer_id: Id | None = None
    expires_at: Timestamp | None = None


class Key(Message, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    customer_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class CreatedKey(Key, frozen=True, kw_only=True):
    """A newly created key. `key` is the text that callers send. It is not stored and cannot be shown again."""

    key: str

    @classmethod
    def of(cls, key: Key, text: str) -> "CreatedKey":
        """The key with its text."""
        return cls(**structs.asdict(key), key=text)


class KeyPage(Message, frozen=True):
    """API keys in the order of their creation."""

    data: list[Key]
    next_cursor: str | None


class Credentials(NamedTuple):
    """The key that a caller claims to have, and the SHA-256 (32 bytes) of the secret it sent."""

    key_id: str
    secret_sha256: bytes


def read_credentials(authorization: bytes) -> Credentials | None:
    """The credentials in an `Authorization` header; None if it does not have the form of a key."""
    match = _CREDENTIALS.fullmatch(authorization)
    return None if match is None else Credentials(match[1].decode(), sha256(match[2]).digest())


def permitted(scopes: Iterable[Scope], customer_id: str | None) -> frozenset[Scope]:
    """What a key with these scopes, bound to this customer or to none, may do.

    `admin` stands for all scopes. Whoever is billed must not credit itself by it: for a key that is bound to a customer
    it leaves out those of MUST_BE_NAMED.
    """
    named = frozenset(scopes)
    if "admin" not in named:
        return named
    return named | (frozenset(SCOPES) if customer_id is None else frozenset(SCOPES) - MUST_BE_NAMED)


def key_name(key_id: bytes | None) -> str | None:
    """The name of a key in records, `bk_` and its id, from the 8 bytes that are stored; None for no key."""
    return None if key_id is None else f"bk_{key_id.hex()}"


def key_id_bytes(name: str | None) -> bytes | None:
    """The 8 bytes that are stored for a key's name (`bk_` and its id); None for no key."""
    return None if name is None else bytes.fromhex(name[3:])


async def create_key(connection: Connection, new: NewKey) -> tuple[Key, str]:
    """Create a key. Returns it, and the text that callers send, which is not stored.

    Raises:
        ProblemError: 404; the customer it is bound to does not exist.
        KeyRightsError: The database role may not create keys.
    """
    if new.customer_id is not None and not await connection.fetch(_CUSTOMERS["known_customers"], [new.customer_id]):
        raise ProblemError(customer_not_found(new.customer_id))
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
    with _raising_key_rights_error():
        await connection.execute(
            _QUERIES["insert_key"],
            key_id,
            digest,
            key.name,
            key.scopes,
            key.customer_id,
            key.created_at,
            key.expires_at,
        )
    return key, f"bk_{key_id}_{secret}"


async def list_keys(connection: Connection) -> list[Key]:
    """All keys, including expired and revoked ones, in the order of their creation."""
    return [_key(row) for row in await connection.fetch(_QUERIES["list_keys"])]


async def revoke_key(connection: Connection, key_id: str) -> Key | None:
    """Revoke a key permanently. Returns None if there is no key with this id.

    Every process refuses the key within `Pace.key_seconds`.

    Raises:
        KeyRightsError: The database role may not revoke keys.
    """
    with _raising_key_rights_error():
        row = await connection.fetchrow(_QUERIES["revoke_key"], key_id, datetime.now(UTC))
    return None if row is None else _key(row)


@contextmanager
def _raising_key_rights_error() -> Iterator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise KeyRightsError from error


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
    """The rows of these keys, including expired and revoked ones, in any order."""
    return await connection.fetch(_QUERIES["find_keys"], key_ids)


async def note_use(connection: Connection, key_ids: list[str], now: datetime, unless_after: datetime) -> None:
    """Save that keys were used at `now`, except for those with a saved use after `unless_after`. It may be lost."""
    async with connection.transaction():
        await commit_without_waiting(connection)
        await connection.execute(_QUERIES["note_use"], key_ids, now, unless_after)
