"""The last activity of each service: shared through the database, bounded, and kept across restarts."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from billing_service.database.migrations import load_migrations, migrate
from billing_service.database.pool import Database, DatabaseUnavailableError
from billing_service.settings import Settings
from billing_service.telemetry.service_activity import MAX_SERVICES, MAX_UNSAVED, ServiceActivity
from tests.calls import given_customer, post, usage
from tests.databases import execute
from tests.scrapes import scrape
from tests.services import free_port, running_service

NOW = 1_790_000_000.0


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    yield database
    await database.close()


async def test_the_latest_moment_of_all_processes_counts(database: Database) -> None:
    one, other = ServiceActivity(), ServiceActivity()
    one.note(["storage", "compute"], NOW)
    other.note(["storage"], NOW - 60)
    await one.synchronise(database)
    await other.synchronise(database)
    assert other.silences(NOW + 5) == {"storage": 5, "compute": 5}
    other.note(["compute"], NOW + 3)
    await other.synchronise(database)
    await one.synchronise(database)
    assert one.silences(NOW + 5) == {"storage": 5, "compute": 2}


async def test_a_clock_that_was_set_back_makes_no_silence_below_zero(database: Database) -> None:
    silence = ServiceActivity()
    silence.note(["storage"], NOW)
    silence.note(["storage"], NOW - 30)
    assert silence.silences(NOW - 10) == {"storage": 0}
    await silence.synchronise(database)
    assert silence.silences(NOW + 1) == {"storage": 1}


async def test_a_service_whose_row_was_deleted_is_forgotten(database: Database, database_url: str) -> None:
    silence = ServiceActivity()
    silence.note(["storage", "no longer sold"], NOW)
    await silence.synchronise(database)
    await execute(database_url, "DELETE FROM service_activity WHERE service = 'no longer sold'", "SELECT 1")
    silence.note(["storage"], NOW + 1)
    await silence.synchronise(database)
    assert silence.silences(NOW + 1) == {"storage": 0}


async def test_services_beyond_the_bound_go_by_one_name(database: Database) -> None:
    silence = ServiceActivity()
    silence.note([f"service {n}" for n in range(MAX_SERVICES)], NOW)
    silence.note([f"service {n}" for n in range(MAX_SERVICES + 50)], NOW + 1)
    assert len(silence.silences(NOW)) == MAX_SERVICES + 1
    assert silence.silences(NOW + 2)["other"] == 1
    await silence.synchronise(database)
    again = ServiceActivity()
    await again.synchronise(database)
    assert again.silences(NOW + 2) == silence.silences(NOW + 2)
    assert len(again.silences(NOW)) == MAX_SERVICES + 1


async def test_made_up_services_do_not_take_the_names_of_real_ones_for_good(database: Database) -> None:
    silence = ServiceActivity()
    silence.note([f"made up {n}" for n in range(2 * MAX_SERVICES)], NOW)
    await silence.synchronise(database)
    for second in (1, 2):
        silence.note(["storage"], NOW + second)
        await silence.synchronise(database)
    assert silence.silences(NOW + 2)["storage"] == 0
    silence.note([f"made up later {n}" for n in range(2 * MAX_SERVICES)], NOW + 3)
    await silence.synchronise(database)
    assert silence.silences(NOW + 12)["storage"] == 10


async def test_what_waits_to_be_saved_is_bounded() -> None:
    silence = ServiceActivity()
    silence.note((f"made up {n}" for n in range(5_000)), NOW)
    assert len(silence._unsaved) == MAX_UNSAVED + 1


async def test_what_could_not_be_saved_is_saved_later(database: Database) -> None:
    away = Database(Settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none"))
    await away.open()
    silence = ServiceActivity()
    silence.note(["storage"], NOW)
    with pytest.raises(DatabaseUnavailableError):
        await silence.synchronise(away)
    await away.close()
    await silence.synchronise(database)
    again = ServiceActivity()
    await again.synchronise(database)
    assert again.silences(NOW) == {"storage": 0}


async def test_the_silence_goes_on_across_a_restart(settings: Settings) -> None:
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url) as http:
            await given_customer(http)
            before = time.time()
            await post(http, "/usage", usage())
    with running_service(settings) as service:
        async with aiohttp.ClientSession(service.url) as http:
            silence = 0.0
            while not silence:
                silence = (await scrape(http)).value("billing_usage_silence_seconds", metered_service="storage")
            assert 0 < silence <= time.time() - before


async def test_usage_from_before_this_was_kept_counts(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    shipped = load_migrations()
    number = next(n for n, migration in enumerate(shipped) if migration.name == "service_activity")
    await migrate(settings, shipped[:number])
    last = datetime(2026, 11, 30, 12, tzinfo=UTC)
    await execute(
        empty_database_url,
        "INSERT INTO customers VALUES ('acme', 'Acme', now(), now())",
        "INSERT INTO usage_records (customer_id, request_id, service, units_consumed, price_per_unit, occurred_at,"
        " recorded_at) SELECT 'acme', sha256(n::text::bytea), 'storage', 1, 1, '2026-01-01Z',"
        f" '{last.isoformat()}'::timestamptz - n * interval '1 hour' FROM generate_series(0, 2) AS n",
        "SELECT 1",
    )
    await migrate(settings)
    assert await execute(empty_database_url, "SELECT last_recorded_at FROM service_activity") == last
