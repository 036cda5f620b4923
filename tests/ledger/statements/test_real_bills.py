"""The sample of real cloud bills: imported, issued, signed; then a price is changed by hand, and each proof tells."""

from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
from joserfc.jwk import OKPKey

from billing_client import UsageRecord
from billing_client.contract.statements.checks import verify_statement
from billing_client.contract.statements.digests import check_inclusion
from billing_client.contract.statements.structs import InclusionProof
from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, post
from tests.ledgers import FOCUS_SAMPLE, focus_usage, record_all
from tests.services import running_service
from tests.statements import fetch

_record = msgspec.json.Decoder(UsageRecord).decode


async def exported(http: aiohttp.ClientSession, customer_id: str) -> list[UsageRecord]:
    page = await fetch(http, f"/usage/export?customerId={customer_id}")
    return [_record(line) for line in page.text.splitlines()]


async def issue_all(http: aiohttp.ClientSession, month: str) -> list[Any]:
    """Issue the statements of all customers, as many in each call as it has time for."""
    done = (await post(http, "/statements", {"month": month})).require(200)
    issued = list(done["issued"])
    while done["nextCursor"]:
        done = (await post(http, "/statements", {"month": month, "cursor": done["nextCursor"]})).require(200)
        issued += done["issued"]
    return issued


async def proof_of(http: aiohttp.ClientSession, stored: Any, digest: str) -> Any:
    return await get(http, f"/customers/{stored['customerId']}/usage/{stored['requestId']}/proof?digest={digest}")


@pytest.mark.skipif(not FOCUS_SAMPLE.exists(), reason="the sample of real cloud bills is not part of the project")
async def test_whoever_changes_a_price_is_found_out(
    database_url: str, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(OKPKey.generate_key("Ed25519").as_pem(private=True))
    settings = Settings(database_url=database_url, signing_key_file=str(file))
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url) as http:
            stored = await record_all(http, focus_usage())
            assert len(stored) > 900
            issued = await issue_all(http, "2024-09")
            assert len(issued) > 1
            digests = {each["customerId"]: each["digest"] for each in issued}
            keys = (await get(http, "/.well-known/jwks.json")).require(200)
            dear = next(each for each in stored if each["customerId"] in digests and float(each["amount"]) > 0)
            customer, digest = dear["customerId"], digests[dear["customerId"]]
            document = (await fetch(http, f"/customers/{customer}/statements/1")).text.encode()

            check = verify_statement(document, records=await exported(http, customer), key_set=keys)
            assert (check.faults, check.signed_by is not None) == ([], True)
            proof = (await proof_of(http, dear, digest)).require(200)
            check_inclusion(msgspec.convert(proof, InclusionProof[str]), digest)
            assert (await verify_ledger(settings)).differences == []

            change = "UPDATE usage_records SET price_per_unit = price_per_unit + 1 WHERE request_id = $1"
            await connection.execute(change, bytes.fromhex(dear["requestId"]))

            found = (await verify_ledger(settings)).differences
            assert any(f"record {dear['requestId']} is not as it was when it was hashed" in line for line in found)
            (await proof_of(http, dear, digest)).problem("usage_not_counted")
            check = verify_statement(document, records=await exported(http, customer), key_set=keys)
            assert any("give the digest" in fault for fault in check.faults)
            forged = document.replace(dear["pricePerUnit"].encode(), b"1" + dear["pricePerUnit"].encode(), 1)
            check = verify_statement(forged, key_set=keys)
            assert any("signature does not hold" in fault for fault in check.faults)
