"""What a command tells the operator about an error. Imported when there is one: it needs the database's driver."""

import asyncpg

from billing_client.contract.problems import ProblemError
from billing_service.database.distribution import DistributionError
from billing_service.database.migrations import MigrationError
from billing_service.database.pool import DatabaseUnavailableError
from billing_service.ledger.api_keys import KeyRightsError
from billing_service.settings import SettingsError


def explain(error: Exception) -> str | None:
    """The line for the operator, without secrets; None for an error that is a fault of the program."""
    if isinstance(error, (SettingsError, MigrationError, DistributionError, KeyRightsError, ProblemError)):
        return str(error)
    if isinstance(error, DatabaseUnavailableError):
        return f"the database cannot be reached: {error}. Check DATABASE_URL and the server."
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return (
            f"the database refused: {error}. Use the DATABASE_URL of the tables' owner, or let the owner run: "
            "billing-service migrate --grant-to ROLE"
        )
    if isinstance(error, asyncpg.PostgresError):
        return f"the database refused: {error}"
    return None
