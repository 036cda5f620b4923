"""What verification recomputes from the records."""

import json
from datetime import UTC, datetime

import asyncpg

from billing_client.contract.decoding import decode_usage
from billing_client.contract.outcomes import Submission
from billing_service.ledger.records import UsageWriter
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import usage

CUSTOMER = 'a"c\\me/ü\U0001f600\u2028'
CHANGE = "UPDATE usage_records SET service = service || 'x' WHERE event_id IS NULL"


async def test_request_ids_are_recomputed_whatever_they_are_made_of(
    connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings
) -> None:
    await connection.execute("INSERT INTO customers VALUES ($1, 'Acme', now(), now())", CUSTOMER)
    texts = ["plain", '"', "\\", "/", "é", "\U0001f600", "\u2028", "\ufeff", "a" * 64]
    numbers = ["0", "-0", "1e3", "1.50", "0.000000000000000001", "12345678901234567890.123456789", "2.5"]
    bodies = [usage(customerId=CUSTOMER, service=text, eventId=None) for text in texts]
    bodies += [usage(customerId=CUSTOMER, eventId=text) for text in texts]
    bodies += [usage(customerId=CUSTOMER, service="numbers", unitsConsumed=number, eventId=None) for number in numbers]
    bodies += [usage(customerId=CUSTOMER, service="one", dimensions={text: text}, eventId=None) for text in texts]
    bodies.append(usage(customerId=CUSTOMER, dimensions=dict.fromkeys(texts, "x"), eventId=None))
    now = datetime.now(UTC)
    submissions = [
        Submission(decode_usage(json.dumps({k: v for k, v in body.items() if v is not None}).encode(), now), None)
        for body in bodies
    ]
    decisions = await UsageWriter().record(connection, submissions)
    recorded = [decision.record for decision in decisions if decision.outcome == "recorded" and decision.record]
    assert len(recorded) == len(bodies) - 1  # -0 is 0
    report = await verify_ledger(settings)
    assert (report.records, report.differences) == (len(recorded), [])
    await connection.execute(CHANGE)
    changed = {record.request_id for record in recorded if record.event_id is None}
    lines = [line for line in (await verify_ledger(settings)).differences if "should be" in line]
    assert {id_ for id_ in changed if any(f"record {id_} should be" in line for line in lines)} == changed
    assert len(lines) == len(changed)
