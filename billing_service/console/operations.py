"""All pages of the console, as operations."""

from billing_service.console import (
    assets,
    customer,
    customers,
    find,
    keys,
    live,
    overview,
    record,
    refusals,
    sign_in,
    statements,
)

OPERATIONS = [
    *overview.OPERATIONS,
    *customers.OPERATIONS,
    *customer.OPERATIONS,
    *record.OPERATIONS,
    *statements.OPERATIONS,
    *find.OPERATIONS,
    *refusals.OPERATIONS,
    *live.OPERATIONS,
    *keys.OPERATIONS,
    *sign_in.OPERATIONS,
    *assets.OPERATIONS,
]
