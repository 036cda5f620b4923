"""The metrics, as read from `/metrics`."""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import asyncpg
import psutil
from prometheus_client import CollectorRegistry, Histogram, generate_latest

import billing_client
from billing_service.telemetry.metrics import SECONDS, BulkHistogram
from tests.calls import get, given_customer, key, post, send, usage
from tests.ledger.test_group_commit import until_a_write_waits, writes_held_up
from tests.scrapes import Scrape, scrape
from tests.services import serve_process

OUTCOMES = "billing_usage_outcomes_total"
REQUESTS = "billing_http_request_duration_seconds_count"


def outcomes(seen: Scrape, way: str) -> dict[str, float]:
    """How often each outcome came, without those that never did."""
    return {labels["outcome"]: value for labels, value in seen.samples(OUTCOMES, way=way) if value}


async def test_each_outcome_of_a_single_record_is_counted(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    assert outcomes(await scrape(http), "single") == {}
    (await post(http, "/usage", usage(eventId="1"), key("a"))).require(201)
    (await post(http, "/usage", usage(eventId="2"), key("b"))).require(201)
    (await post(http, "/usage", usage(eventId="1"), key("a"))).require(201)
    (await post(http, "/usage", usage(eventId="1"))).problem("duplicate_record")
    (await post(http, "/usage", usage(eventId="1", service="compute"))).problem("event_id_conflict")
    (await post(http, "/usage", usage(customerId="nobody"))).problem("customer_not_found")
    (await post(http, "/usage", usage(pricePerUnit="-1"))).problem("validation_error", "/pricePerUnit")
    expected = {"recorded": 2, "replayed": 1, "duplicate": 1, "conflict": 1, "rejected": 2}
    seen = await scrape(http)
    assert outcomes(seen, "single") == expected
    assert outcomes(seen, "batch") == {}


async def test_each_outcome_in_a_batch_is_counted_but_for_dry_runs(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    records = [usage(eventId="1"), usage(eventId="2"), usage(eventId="1"), usage(customerId="nobody"), {}]
    (await post(http, "/usage/batch?dryRun=true", {"records": records})).require(200)
    assert outcomes(await scrape(http), "batch") == {}
    (await post(http, "/usage/batch", {"records": records})).require(200)
    assert outcomes(await scrape(http), "batch") == {"recorded": 2, "duplicate": 1, "rejected": 2}


async def test_a_request_is_timed_by_the_template_of_its_route(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await get(http, "/customers/acme/usage")
    await get(http, "/customers/acme/usage?limit=0")
    await get(http, "/customers/nobody/usage")
    await get(http, "/no/such/address")
    await send(http, "DELETE", "/customers/acme")
    seen = await scrape(http)
    counted = {
        (labels["method"], labels["route"], labels["status"]): value
        for labels, value in seen.samples(REQUESTS)
        if labels["route"] != "/metrics"
    }
    assert counted == {
        ("POST", "/customers", "201"): 1,
        ("GET", "/customers/{customer_id}/usage", "200"): 1,
        ("GET", "/customers/{customer_id}/usage", "400"): 1,
        ("GET", "/customers/{customer_id}/usage", "404"): 1,
        ("GET", "other", "404"): 1,
        ("DELETE", "/customers/{customer_id}", "405"): 1,
    }
    assert seen.value("billing_http_request_duration_seconds_sum") > 0
    buckets = seen.samples("billing_http_request_duration_seconds_bucket", route="other", le="+Inf")
    assert [value for _, value in buckets] == [1]


async def test_no_method_that_a_caller_makes_up_becomes_a_time_series(http: aiohttp.ClientSession) -> None:
    await send(http, "PROPFIND", "/usage")
    await send(http, "PURGE", "/usage")
    assert (await scrape(http)).value(REQUESTS, method="other", route="/usage", status="405") == 2


async def test_a_fault_of_the_service_is_a_500(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("DROP TABLE customers CASCADE")
    (await get(http, "/customers")).problem("internal_error")
    assert (await scrape(http)).value(REQUESTS, method="GET", route="/customers", status="500") == 1


async def test_commits_are_timed_and_their_records_counted(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await post(http, "/usage", usage(eventId="1"))
    await post(http, "/usage/batch", {"records": [usage(eventId=f"{n}") for n in range(30)]})
    seen = await scrape(http)
    for way, records in (("single", 1), ("batch", 30)):
        assert seen.value("billing_commit_records_count", way=way) == 1
        assert seen.value("billing_commit_records_sum", way=way) == records
        assert seen.value("billing_commit_duration_seconds_count", way=way) == 1
        assert seen.value("billing_commit_duration_seconds_sum", way=way) > 0
    assert seen.value("billing_queue_wait_seconds_count") == 1


async def test_what_waits_for_a_commit_under_way_is_seen(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await given_customer(http)
    seen = await scrape(http)
    assert seen.value("billing_queue_records") == 0
    assert seen.value("billing_queue_capacity_records") == 10_000
    async with writes_held_up(connection):
        calls = [asyncio.create_task(post(http, "/usage", usage(eventId="first")))]
        await until_a_write_waits(database_url)
        calls += [asyncio.create_task(post(http, "/usage", usage(eventId=f"{n}"))) for n in range(20)]
        async with asyncio.timeout(30):
            while (await scrape(http)).value("billing_queue_records") < 20:
                pass
        await asyncio.sleep(0.2)
    for answer in await asyncio.gather(*calls):
        answer.require(201)
    seen = await scrape(http)
    assert seen.value("billing_queue_records") == 0
    assert seen.value("billing_queue_wait_seconds_sum") >= 0.2
    assert seen.value("billing_commit_duration_seconds_sum", way="single") >= 0.2


async def test_how_the_pool_is_used_is_seen(
    http: aiohttp.ClientSession, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await given_customer(http)
    assert (await scrape(http)).value("billing_pool_connections", state="idle") >= 1
    async with writes_held_up(connection):
        batches = [
            asyncio.create_task(post(http, "/usage/batch", {"records": [usage(eventId=f"{n}")]})) for n in range(12)
        ]
        await until_a_write_waits(database_url, 6)  # of the pool of 10 writes get so many
        seen = await scrape(http)
        assert 6 <= seen.value("billing_pool_connections", state="busy") <= 10
        assert seen.value("billing_pool_waiting") >= 6
        assert seen.value("billing_pool_capacity_connections") == 10
    for answer in await asyncio.gather(*batches):
        answer.require(200)
    assert (await scrape(http)).value("billing_pool_connections", state="busy") <= 1  # a look at who was active


def test_many_times_at_once_count_as_one_by_one() -> None:
    values = [0.0, 0.0005, 0.001, 0.0010000001, 0.3, 0.3, 5, 29.9, 30, 31, 1e6, 0.01]
    one_by_one, at_once = CollectorRegistry(), CollectorRegistry()
    first = Histogram("seconds", "a test", buckets=SECONDS, registry=one_by_one)
    for value in values:
        first.observe(value)
    second = BulkHistogram("seconds", "a test", buckets=SECONDS, registry=at_once)
    second.observe_all(values[3:])
    second.observe_all(values[:3])
    second.observe_all([])
    assert generate_latest(at_once) == generate_latest(one_by_one)


async def test_the_build_is_named(http: aiohttp.ClientSession) -> None:
    assert (await scrape(http)).value("billing_build_info", version=billing_client.__version__) == 1


async def test_the_silence_of_a_service_begins_with_what_was_recorded_of_it(http: aiohttp.ClientSession) -> None:
    await given_customer(http)
    await post(http, "/usage", usage(service="storage"))
    await asyncio.sleep(0.2)
    await post(http, "/usage", usage(service="compute"))
    await post(http, "/usage", usage(service="storage"))  # a duplicate
    await post(http, "/usage", usage(service="network", customerId="nobody"))
    seen = await scrape(http)
    silences = {labels["metered_service"]: value for labels, value in seen.samples("billing_usage_silence_seconds")}
    assert silences.keys() == {"storage", "compute"}
    assert silences["storage"] - 0.2 >= silences["compute"] >= 0


async def test_several_processes_answer_for_all_and_one_that_ended_still_counts(
    tmp_path: Path, database_url: str
) -> None:
    with serve_process(tmp_path, database_url, "--workers", "2") as served:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)  # so that either worker gets some
        async with aiohttp.ClientSession(served.url, connector=connector) as http:
            await given_customer(http)
            await asyncio.gather(*(post(http, "/usage", usage(eventId=f"{n}")) for n in range(50)))
            await until_value(http, "billing_commit_records_sum", 50)  # each worker counts some at a time
            for _ in range(5):
                seen = await scrape(http)
                assert outcomes(seen, "single") == {"recorded": 50}
                assert seen.value(REQUESTS, route="/usage", status="201") == 50
                assert seen.value("billing_commit_records_sum", way="single") == 50
            await until_value(http, "billing_queue_capacity_records", 20_000)

            worker = next(child for child in psutil.Process(served.service.process.pid).children() if serves(child))
            os.kill(worker.pid, signal.SIGKILL)
            await until_value(http, "billing_queue_capacity_records", 10_000)
            assert outcomes(await scrape(http), "single") == {"recorded": 50}
            await until_value(http, "billing_queue_capacity_records", 20_000)  # another has taken its place
            assert outcomes(await scrape(http), "single") == {"recorded": 50}
        folders = metrics_folders(served.service.process.pid)
        assert folders
        assert served.service.terminate() == 0
    assert not any(folder.exists() for folder in folders)


def serves(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())


def metrics_folders(pid: int) -> list[Path]:
    """Where the workers of a service count."""
    environments = [child.environ() for child in psutil.Process(pid).children() if serves(child)]
    return [Path(environment["PROMETHEUS_MULTIPROC_DIR"]) for environment in environments]


async def until_value(http: aiohttp.ClientSession, name: str, value: float) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if (await scrape(http)).value(name) == value:
                    return
            except aiohttp.ClientError:  # it came to a worker that was just killed
                pass
            await asyncio.sleep(0.05)
