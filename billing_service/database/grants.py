"""The rights of the database role that the service runs as, if it is not the owner of the tables."""

from billing_service.database.distribution import write_in_sequence
from billing_service.database.pool import connected
from billing_service.database.queries import load_queries
from billing_service.settings import Settings

_QUERIES = load_queries("grants")


async def grant(settings: Settings, role: str, *, with_keys: bool) -> None:
    """Give a role the rights the service needs, and revoke the others it had. Raises what asyncpg raises.

    `with_keys` adds the right to create and revoke API keys. Without it, whoever takes over the service creates no key.
    """
    async with connected(settings) as connection, connection.transaction():
        await write_in_sequence(connection)
        await connection.execute(_QUERIES["name_grantee"], role, str(with_keys).lower())
        await connection.execute(_QUERIES["grant"])
