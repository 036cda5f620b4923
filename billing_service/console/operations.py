"""All pages of the console, as operations."""

from billing_service.console import assets, customer, customers, overview, sign_in

OPERATIONS = [
    *overview.OPERATIONS,
    *customers.OPERATIONS,
    *customer.OPERATIONS,
    *sign_in.OPERATIONS,
    *assets.OPERATIONS,
]
