"""`billing-service openapi`: prints the API as an OpenAPI 3.1 document."""

import click
import msgspec

from billing_service.app import OPERATIONS
from billing_service.openapi.document import openapi_document


@click.command(name="openapi")
def command() -> None:
    """Print the OpenAPI document."""
    click.echo(msgspec.json.format(openapi_document(OPERATIONS), indent=2))
