"""All pages of the console, as operations."""

from billing_service.console import assets, customer, customers, find, keys, overview, record, sign_in

OPERATIONS = [
    *overview.OPERATIONS,
    *customers.OPERATIONS,
    *customer.OPERATIONS,
    *record.OPERATIONS,
    *find.OPERATIONS,
    *keys.OPERATIONS,
    *sign_in.OPERATIONS,
    *assets.OPERATIONS,
]
