"""PgBouncer in transaction mode between the service and PostgreSQL: each transaction may be on another connection."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import asyncpg
import pytest

from billing_service.ledger.verification import verify_ledger
from billing_service.settings import Settings
from tests.calls import get, given_customer, post, usage
from tests.services import Service, free_port, running_service

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed (Debian: apt install pgbouncer)")
CONFIGURATION = """
[databases]
billing = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
"""


def server_of(url: str) -> str:
    """A database's URL as PgBouncer names it."""
    parts = urlsplit(url)
    values = {
        "host": parts.hostname or parse_qs(parts.query)["host"][0],
        "port": parts.port,
        "dbname": parts.path.removeprefix("/"),
        "user": unquote(parts.username or "postgres"),
        "password": unquote(parts.password or ""),
    }
    return " ".join(f"{name}={value}" for name, value in values.items() if value)


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of this test's database by way of a PgBouncer that has three connections to it."""
    assert PGBOUNCER is not None
    port = free_port()
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(server=server_of(database_url), port=port))
    for folder in [tmp_path, *tmp_path.parents][:4]:  # as root it runs as another user, who has to read it
        folder.chmod(0o755)
    host = Path(parse_qs(urlsplit(database_url).query).get("host", ["/"])[0])  # of the embedded server, its socket's
    user = ["-u", host.owner() if host.owner() != "root" else "nobody"] if os.geteuid() == 0 else []
    with subprocess.Popen([PGBOUNCER, "-q", *user, configuration], stderr=subprocess.PIPE) as process:
        url = f"postgresql://billing@127.0.0.1:{port}/billing"
        try:
            asyncio.run(answer(url))
            yield url
        finally:
            process.terminate()


async def answer(url: str) -> None:
    """Wait until it answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = await asyncpg.connect(url, statement_cache_size=0)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return await connection.close()


@pytest.fixture
def pooled_service(pooled_url: str) -> Iterator[Service]:
    with running_service(Settings(database_url=pooled_url, pgbouncer=True)) as service:
        yield service


async def test_all_the_service_does_works_in_transaction_mode(pooled_service: Service) -> None:
    async with aiohttp.ClientSession(pooled_service.url) as http:
        (await get(http, "/readyz")).require(200)
        await given_customer(http)
        record = (await post(http, "/usage", usage(eventId="first"))).require(201)
        (await post(http, "/usage", usage(eventId="first"))).problem("duplicate_record")
        (await post(http, "/usage", usage(eventId="lost", customerId="nobody"))).problem("customer_not_found")

        async def produce(producer: int) -> None:
            for number in range(20):
                (await post(http, "/usage", usage(eventId=f"{producer}-{number}"))).require(201)
                batch = [usage(eventId=f"{producer}-{number}-{n}") for n in range(10)]
                (await post(http, "/usage/batch", {"records": batch})).require(200)
                (await get(http, f"/customers/acme/usage?limit={number + 1}")).require(200)
                (await get(http, "/customers/acme/summary?groupBy=service,day")).require(200)

        await asyncio.gather(*(produce(producer) for producer in range(8)))
        path = f"/customers/acme/usage/{record['requestId']}"
        (await post(http, f"{path}/void", {"reason": "a test"})).require(200)
        month = record["occurredAt"][:7]
        statement = (await get(http, f"/customers/acme/statement?month={month}")).require(200)
        assert statement["total"]["records"] == 8 * 20 * 11
        (await post(http, "/usage", usage(eventId="before", occurredAt="2026-01-05T00:00:00Z"))).require(201)
        issued = (await post(http, "/customers/acme/statements", {"month": "2026-01"})).require(201)
        since = f"/customers/acme/statement?month=2026-01&since={issued['digest']}"
        assert (await get(http, since)).require(200)["changes"]["recorded"] == []
        async with http.get("/usage/export") as response:
            assert len((await response.read()).splitlines()) == 8 * 20 * 11 + 2
    report = await verify_ledger(pooled_service.settings)
    assert (report.records, report.differences) == (8 * 20 * 11 + 2, [])
