"""Inclusion proofs: of each record that counts, in the statement that counts it, and of no other."""

from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from billing_client.contract.statements.digests import check_inclusion
from billing_client.contract.statements.structs import InclusionProof
from tests.calls import get, given_customer
from tests.ledger.statements.test_pieces import january
from tests.ledgers import record_all
from tests.statements import issue, record, statement, void


async def prove(http: aiohttp.ClientSession, stored: Any, digest: str, zone: str = "UTC") -> Any:
    path = f"/customers/acme/usage/{stored['requestId']}/proof?digest={digest}&timezone={zone}"
    return await get(http, path)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
async def test_each_record_is_proved_by_few_hashes_and_later_ones_change_nothing(
    http: aiohttp.ClientSession, zone: str
) -> None:
    stored = await record_all(http, january(300, seed=1))
    provisional = await statement(http, "2026-01", timezone=zone)
    counted = [each for each in stored if each["occurredAt"] < provisional["to"]]
    (outside,) = [await record(http, "outside", "2025-12-31T22:30:00Z")]
    digests = [provisional["digest"], (await issue(http, "2026-01", timezone=zone))["digest"]]
    assert digests[0] == digests[1]
    for each in counted[::50]:
        proof = msgspec.convert((await prove(http, each, digests[0], zone)).require(200), InclusionProof[str])
        check_inclusion(proof, digests[0])
        assert len(proof.path) + len(proof.piece.path) < 16
    late = (await record_all(http, january(5, seed=2)))[0]
    await void(http, counted[0])
    for each in counted[::50]:  # the first one too: it counted when the statement was issued
        proof = msgspec.convert((await prove(http, each, digests[0], zone)).require(200), InclusionProof[str])
        check_inclusion(proof, digests[0])
    for each in (late, outside):
        (await prove(http, each, digests[0], zone)).problem("usage_not_counted")
    now = (await statement(http, "2026-01", timezone=zone))["digest"]
    proof = msgspec.convert((await prove(http, late, now, zone)).require(200), InclusionProof[str])
    check_inclusion(proof, now)
    (await prove(http, counted[0], now, zone)).problem("usage_not_counted")


async def test_a_changed_price_has_no_proof(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await given_customer(http)
    stored = await record(http, "1", "2026-01-05T00:00:00Z")
    digest = (await issue(http, "2026-01"))["digest"]
    (await prove(http, stored, digest)).require(200)
    await connection.execute("UPDATE usage_records SET price_per_unit = 0.03")
    assert "was changed in the database" in (await prove(http, stored, digest)).problem("usage_not_counted")["detail"]


async def test_what_cannot_be_proved(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    stored = await record(http, "1", "2026-01-05T00:00:00Z")
    (await prove(http, stored, "0" * 64)).problem("statement_not_found")
    (await prove(http, {"requestId": "0" * 64}, "0" * 64)).problem("usage_not_found")
    (await prove(http, {"requestId": "x"}, "0" * 64)).problem("usage_not_found")
    (await prove(http, stored, "x")).problem("validation_error", "query/digest")
    (await prove(http, stored, "0" * 64, "Mars")).problem("validation_error", "query/timezone")
    (await get(http, f"/customers/nobody/usage/{'0' * 64}/proof?digest={'0' * 64}")).problem("customer_not_found")
