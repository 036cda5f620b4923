"""What the role that the service runs as may do in the database, where it is not the one that migrates."""

from billing_service.database.pool import connect
from billing_service.database.queries import load_queries
from billing_service.settings import Settings

_QUERIES = load_queries("grants")


async def grant(settings: Settings, role: str) -> None:
    """Let a role do what the service does, and take from it what it had besides. Raises what asyncpg raises."""
    connection = await connect(settings)
    try:
        async with connection.transaction():
            await connection.execute(_QUERIES["name_grantee"], role)
            await connection.execute(_QUERIES["grant"])
    finally:
        await connection.close()
