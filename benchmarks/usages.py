"""The usage that is reported: distinct by event id, spread evenly over customers and services."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice

from billing_client.contract.decoding import decode_usage
from billing_client.contract.wire import UsageRecord

SERVICES = ("compute", "storage", "database", "network", "messages")


class Workload:
    """An endless source of usage; no two sources with different names give the same event id."""

    def __init__(self, name: str, customers: int) -> None:
        self._name = name
        self._customers = customers
        self._next = 0

    def bodies(self, number: int) -> list[bytes]:
        """The next `number` uses, each as the JSON that reports it."""
        return list(islice(self._bodies(), number))

    def _bodies(self) -> Iterator[bytes]:
        while True:
            n = self._next
            self._next += 1
            usage = {
                "customerId": customer_id(n % self._customers),
                "service": SERVICES[n // self._customers % len(SERVICES)],
                "unitsConsumed": f"{n % 997 + 1}.25",
                "pricePerUnit": "0.0235",
                "eventId": f"{self._name}-{n}",
            }
            yield json.dumps(usage, separators=(",", ":")).encode()


def customer_id(number: int) -> str:
    return f"customer-{number}"


def batch_body(bodies: list[bytes]) -> bytes:
    """One call's body for these uses."""
    return b'{"records":[' + b",".join(bodies) + b"]}"


def records(bodies: Sequence[bytes]) -> list[UsageRecord[str]]:
    """What the service would store for these uses."""
    now = datetime.now(UTC)
    return [decode_usage(body, now) for body in bodies]
