"""Turn events of Stripe meters, Lago or OpenMeter into usage, for `billing import`.

    pip install ".[examples]"
    python examples/import_events.py events.json --price storage=gb:0.02 --price requests=:0.001 > usage.ndjson
    billing import usage.ndjson --create-customers

FILE holds JSON or NDJSON: events of Lago or CloudEvents of OpenMeter (both list them at `GET /api/v1/events`), or meter
events of Stripe; these also as CSV, as Stripe takes them from S3. `--price CODE=PROPERTY:PRICE` says what an event of
this code costs: the property that holds the units, or none if each event is one unit, and the price of a unit.
`--dimension NAME` keeps a property as a dimension. Each event keeps its id, so it counts once however often you run
this.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

_decode = msgspec.json.Decoder(float_hook=Decimal).decode  # a float would not hold the digits


class Event(NamedTuple):
    """An event, whoever's it is: `code` names what is metered."""

    id: str
    customer_id: str
    code: str
    occurred_at: str
    properties: dict[str, Any]


class Price(NamedTuple):
    """What an event costs: the property with the units ("" if it is one unit), and the price of a unit."""

    property: str
    per_unit: str


def events_in(text: bytes) -> Iterator[dict[str, Any]]:
    """The events of a file: CSV, or JSON with a list, an object with a list, or an object a line."""
    if not text.lstrip().startswith((b"{", b"[")):
        yield from map(stripe_event, csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline="")))
        return
    try:
        found = _decode(text)
    except msgspec.DecodeError:
        found = [_decode(line) for line in text.splitlines() if line.strip()]
    for each in found if isinstance(found, list) else [found]:
        page = [each[name] for name in ("events", "data", "items") if isinstance(each.get(name), list)]
        for event in page[0] if page else [each]:
            yield event.get("event", event)  # OpenMeter has each event in one more object


def stripe_event(row: dict[str, str]) -> dict[str, Any]:
    """A row of Stripe's CSV as the event that it is: a column `payload_value` is `value` of the payload."""
    payload = {name[8:]: value for name, value in row.items() if name and name.startswith("payload_") and value}
    return {name: value for name, value in row.items() if value} | {"payload": payload}


def read(event: dict[str, Any]) -> Event:
    """Read an event. Raises KeyError with the member that it should have."""
    if "transaction_id" in event:  # Lago
        customer_id, code = event["external_subscription_id"], event["code"]
        return Event(
            event["transaction_id"], customer_id, code, _time(event["timestamp"]), event.get("properties") or {}
        )
    if "event_name" in event:  # Stripe
        payload = dict(event["payload"])
        customer_id = payload.pop("stripe_customer_id")
        return Event(event["identifier"], customer_id, event["event_name"], _time(event["timestamp"]), payload)
    id_ = f"{event['source']}/{event['id']}"  # CloudEvents are the same if both are
    return Event(id_, event["subject"], event["type"], _time(event["time"]), event.get("data") or {})


def usage_of(event: Event, price: Price, dimensions: list[str]) -> dict[str, Any]:
    """The usage that an event is, as the API takes it. Raises KeyError with the property that it should have."""
    units = event.properties[price.property] if price.property else 1
    kept = {name: str(event.properties[name]) for name in dimensions if name in event.properties}
    return {
        "customerId": event.customer_id,
        "service": event.code,
        "unitsConsumed": str(units),
        "pricePerUnit": price.per_unit,
        "eventId": event.id,
        "occurredAt": event.occurred_at,
    } | ({"dimensions": kept} if kept else {})


def _time(value: str | int | Decimal) -> str:
    """A time in RFC 3339; Lago and Stripe also know seconds since 1970, as a number or as text."""
    try:
        return datetime.fromtimestamp(float(value), UTC).isoformat()
    except ValueError:
        return str(value)


def _price(text: str) -> tuple[str, Price]:
    code, _, rest = text.partition("=")
    property_, mark, per_unit = rest.rpartition(":")
    if not code or not mark or not per_unit:
        raise argparse.ArgumentTypeError(f"{text!r} is not CODE=PROPERTY:PRICE")
    return code, Price(property_, per_unit)


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn events of other meters into usage for `billing import`.")
    parser.add_argument("file", type=Path, help="events as JSON, NDJSON or Stripe's CSV")
    parser.add_argument(
        "--price",
        type=_price,
        action="append",
        required=True,
        metavar="CODE=PROPERTY:PRICE",
        help="of each code: the property with the units (none if an event is one unit), and the price of a unit",
    )
    parser.add_argument(
        "--dimension", action="append", default=[], metavar="NAME", help="a property to keep; repeatable"
    )
    arguments = parser.parse_args()
    prices, skipped = dict(arguments.price), 0
    for number, given in enumerate(events_in(arguments.file.read_bytes()), 1):
        try:
            event = read(given)
            if event.code not in prices:
                raise LookupError(f"no price; add --price {event.code}=PROPERTY:PRICE")
            usage = usage_of(event, prices[event.code], arguments.dimension)
        except LookupError as error:
            skipped += 1
            text = f"it has no {error}" if isinstance(error, KeyError) else error
            print(f"event {number}: {text}", file=sys.stderr)
            continue
        sys.stdout.buffer.write(msgspec.json.encode(usage) + b"\n")
    sys.exit(1 if skipped else 0)


if __name__ == "__main__":
    main()
