"""examples/import_events.py: events as the documentation of Lago, OpenMeter and Stripe shows them, imported once."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_client.blocking import BillingClient
from tests.cli import billing
from tests.cli.imports.bills import figures
from tests.examples import run_example
from tests.services import Service

LAGO = {
    "transaction_id": "transaction_1234567890",
    "lago_customer_id": "1a901a90-1a90-1a90-1a90-1a901a901a90",
    "code": "storage",
    "timestamp": "2026-04-29T08:59:51.123Z",
    "external_subscription_id": "CUSTOMER",
    "precise_total_amount_cents": "1234.56",
    "properties": {"gb": 10.1, "region": "eu"},
    "created_at": "2026-04-29T08:59:51Z",
}
OPENMETER = {
    "specversion": "1.0",
    "type": "request",
    "id": "00001",
    "time": "2026-01-01T00:00:00.001Z",
    "source": "service-0",
    "subject": "CUSTOMER",
    "data": {"duration_seconds": "12", "method": "GET"},
}
STRIPE = {
    "object": "v2.billing.meter_event",
    "created": "2026-06-01T12:10:00.000Z",
    "identifier": "idmp_12345678",
    "event_name": "ai_search_api",
    "timestamp": 1780315200,
    "payload": {"stripe_customer_id": "CUSTOMER", "value": "25"},
}


STRIPE_CSV = """identifier,timestamp,event_name,payload_stripe_customer_id,payload_value,payload_region
idmp_12345678,1780315200,ai_search_api,CUSTOMER,25,eu
"""


@pytest.mark.parametrize(
    ("content", "price", "event_id", "units", "at"),
    [
        (
            {"events": [LAGO], "meta": {}},
            "storage=gb:0.02",
            "transaction_1234567890",
            "10.1",
            "2026-04-29T08:59:51.123Z",
        ),
        ([{"event": OPENMETER, "ingestedAt": "x"}], "request=:0.5", "service-0/00001", "1", "2026-01-01T00:00:00.001Z"),
        (OPENMETER, "request=duration_seconds:0.5", "service-0/00001", "12", "2026-01-01T00:00:00.001Z"),
        (STRIPE, "ai_search_api=value:0.5", "idmp_12345678", "25", "2026-06-01T12:00:00Z"),
        (STRIPE_CSV, "ai_search_api=value:0.5", "idmp_12345678", "25", "2026-06-01T12:00:00Z"),
    ],
)
def test_an_event_is_recorded_once(
    shared_service: Service, customer: str, tmp_path: Path, content: Any, price: str, event_id: str, units: str, at: str
) -> None:
    file, usage = tmp_path / "events.json", tmp_path / "usage.ndjson"
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text.replace("CUSTOMER", customer))
    made = run_example("import_events.py", file, "--price", price, "--dimension", "region", "--dimension", "method")
    assert (made.returncode, made.stderr) == (0, "")
    usage.write_text(made.stdout)
    for recorded in ("1", "0"):
        done = billing("import", usage, "--base-url", shared_service.url)
        assert figures(done.stdout)["recorded"] == recorded, done
    with BillingClient(base_url=shared_service.url) as client:
        (record,) = client.usage(customer_id=customer)
    assert (record.event_id, record.units_consumed) == (event_id, Decimal(units))
    assert record.occurred_at.isoformat().replace("+00:00", "Z").replace("000Z", "Z") == at
    assert record.dimensions in ({}, {"region": "eu"}, {"method": "GET"})


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    without_gb, without_id = LAGO | {"properties": {}}, {key: STRIPE[key] for key in STRIPE if key != "identifier"}
    file.write_text(json.dumps({"object": "list", "data": [LAGO, OPENMETER, without_gb, without_id]}))
    made = run_example("import_events.py", file, "--price", "storage=gb:0.02")
    assert made.returncode == 1
    assert len(made.stdout.splitlines()) == 1
    assert made.stderr.splitlines() == [
        "event 2: no price; add --price request=PROPERTY:PRICE",
        "event 3: it has no 'gb'",
        "event 4: it has no 'identifier'",
    ]
