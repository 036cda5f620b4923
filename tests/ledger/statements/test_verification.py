"""`verify` names what was changed in the database, even where sums were changed to match."""

from pathlib import Path

import aiohttp
import asyncpg
import pytest
from joserfc.jwk import OKPKey
from msgspec.structs import replace

from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import given_customer
from tests.services import running_service
from tests.statements import issue, record, void


async def test_nothing_differs_and_late_records_are_no_difference(
    http: aiohttp.ClientSession, settings: Settings
) -> None:
    await given_customer(http)
    stored = [await record(http, str(number), "2026-01-05T00:00:00Z") for number in range(3)]
    await void(http, stored[0])
    await issue(http, "2026-01", timezone="Europe/Berlin")
    await record(http, "late", "2026-01-05T00:00:00Z")
    await void(http, stored[1])
    report = await verify_ledger(settings)
    assert (report.records, report.pieces, report.statements, report.differences) == (4, 1, 1, [])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE usage_records SET price_per_unit = 0.5 WHERE event_id = '1'", "not as it was when it was hashed"),
        ("UPDATE usage_records SET recorded_by = '\\x0123456789abcdef' WHERE event_id = '1'", "not as it was"),
        ("UPDATE usage_records SET dimensions = '{\"a\": \"b\"}' WHERE event_id = '1'", "not as it was"),
        ("DELETE FROM usage_records WHERE event_id = '1'", "1 records that were hashed are not there any more"),
        (
            "UPDATE usage_voids SET reason = 'another'",
            "voids are not as they were when they were hashed: of the records",
        ),
        ("UPDATE usage_pieces SET leaves = leaves || sha256('')", "do not give the root"),
        ("UPDATE usage_pieces SET line_units = ARRAY[1]", "its lines are not what its records add up to"),
        ("UPDATE issued_statements SET digest = sha256('')", "its digest is not that of the pieces"),
        (
            """UPDATE issued_statements SET document = decode(
                replace(encode(document, 'hex'), encode('"amount":"0.06"', 'hex'), encode('"amount":"0.05"', 'hex')),
                'hex'
            )""",
            "is not 0.05",
        ),
    ],
)
async def test_a_change_is_named(
    http: aiohttp.ClientSession,
    connection: "asyncpg.Connection[asyncpg.Record]",
    settings: Settings,
    change: str,
    what: str,
) -> None:
    await given_customer(http)
    stored = [await record(http, str(number), "2026-01-05T00:00:00Z") for number in range(3)]
    await void(http, stored[2])
    await issue(http, "2026-01")
    await connection.execute(change)
    found = [line for line in (await verify_ledger(settings)).differences if what in line]
    assert len(found) >= 1
    if "'1'" in change and "DELETE" not in change:
        assert f"record {stored[1]['requestId']} is not as it was when it was hashed" in found[0]


async def test_a_statement_that_was_signed_anew_by_nobody_is_named(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(OKPKey.generate_key("Ed25519").as_pem(private=True))
    settings = Settings(database_url=database_url, signing_key_file=str(file))
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            await issue(http, "2026-01")
    assert (await verify_ledger(settings)).differences == []
    file.write_bytes(OKPKey.generate_key("Ed25519").as_pem(private=True))
    (fault,) = (await verify_ledger(settings)).differences
    assert "the signature does not hold" in fault
    assert (await verify_ledger(replace(settings, signing_key_file=None))).differences == []
