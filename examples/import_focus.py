"""Import a cloud bill in FOCUS 1.0 CSV, of any size. Run it as often as you like: each line is recorded once.

    pip install "billing-system[examples]"
    python examples/import_focus.py bill.csv

It is the command `billing import --format focus`, and takes its options (`--help`). SubAccountId is the customer,
ServiceName the service, ConsumedQuantity the units, ListUnitPrice the price, and the line's Id, where it has one, the
event id. `--without-event-ids` is a dry run that shows what would be lost if equal customer, service, units and price
always meant the same usage.
"""

import sys

from billing_client.cli.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["import", "--format", "focus"]
    main()
