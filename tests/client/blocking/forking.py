"""A program that forks while its client and its recorder are in use: parent and children go on recording.

usage: python -m tests.client.blocking.forking URL CUSTOMER SPOOL
"""

import os
import sys
import warnings
from pathlib import Path

from billing_client import SpoolError
from billing_client.blocking import BillingClient, UsageRecorder

CHILDREN = 3


def record(client: BillingClient, recorder: UsageRecorder, customer: str, name: str) -> None:
    for call, way in ((client.record_usage, "call"), (recorder.record, "recorder")):
        call(customer_id=customer, service="storage", units_consumed=1, price_per_unit=1, event_id=f"{name}/{way}")


def main(url: str, customer: str, spool: str) -> None:
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # a fork, Python 3.12
    client = BillingClient(base_url=url, timeout=10)  # less than a call waits on a connection that died unnoticed
    reader = BillingClient(base_url=url, timeout=10)
    reader.get_customer(customer_id=customer)
    never_opened = client.recorder(spool=Path(spool) / "later.db")
    recorder = client.recorder(spool=Path(spool) / "parent.db")
    record(client, recorder, customer, "parent/before")
    listed = client.usage(customer_id=customer, page_size=1)
    next(listed)
    children = []
    for number in range(CHILDREN):
        if (child := os.fork()) == 0:
            try:
                recorder.record(customer_id=customer, service="storage", units_consumed=1, price_per_unit=1)
            except SpoolError as error:  # one file belongs to one process
                print(type(error).__name__, flush=True)
            try:
                next(listed)
            except RuntimeError as error:
                print(error, flush=True)
            own = client.recorder(spool=Path(spool) / f"child-{number}.db")
            record(client, own, customer, f"child-{number}")
            reader.get_customer(customer_id=customer)
            reader.close()
            client.close()
            sys.exit()  # with destructors, which must not touch what belongs to the parent
        children.append(child)
    print([os.waitpid(child, 0)[1] for child in children], flush=True)
    reader.get_customer(customer_id=customer)
    record(client, recorder, customer, "parent/after")
    record(client, never_opened, customer, "parent/later")
    reader.close()
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
