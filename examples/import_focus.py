"""Import a cloud bill in FOCUS 1.0 CSV, of any size. Each line is recorded once, however often you run it.

    pip install ".[examples]"
    python examples/import_focus.py bill.csv

This is the command `billing import --format focus` with all its options (`--help`). SubAccountId is the customer,
ServiceName the service, ConsumedQuantity the units, ListUnitPrice the price, and Id, if the line has one, the event id.
`--without-event-ids` is a dry run. It shows what would be lost if equal customer, service, units and price always meant
the same usage.
"""

import sys

from billing_client.cli.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["import", "--format", "focus"]
    main()
