"""Graceful shutdown, as callers and the operator see it."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import aiohttp
import asyncpg
import psutil
import pytest

from billing_client import BillingSystemClient
from tests.calls import get, given_customer, json_request, post, read_answer, request_head, usage
from tests.databases import embedded_server
from tests.faults.balancer import balanced
from tests.faults.proxy import Proxy
from tests.services import ServeProcess, ServiceProcess, free_port, get_status, serve_process, until

PATIENCE_SECONDS = 60
NEVER = {"BILLING_DRAIN_DELAY": "600"}


async def test_a_stop_is_told_before_it_comes_and_calls_are_answered_meanwhile(
    tmp_path: Path, database_url: str
) -> None:
    with serve_process(tmp_path, database_url, environment=NEVER) as served:
        async with aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
            for _ in range(2):  # an operator may ask twice
                served.service.process.send_signal(signal.SIGTERM)
                await until(lambda: get_status(served.host, served.port, "/readyz") == 503)
            ready = await get(http, "/readyz")
            assert "stopping" in ready.problem("unavailable")["detail"]
            assert int(ready.headers["Retry-After"]) > 0
            (await get(http, "/healthz")).require(200)
            recorded = await post(http, "/usage", usage())
            recorded.require(201)
            assert {ready.headers["Connection"], recorded.headers["Connection"]} == {"close"}
        assert served.service.process.poll() is None
        assert served.service.terminate(signal.SIGINT) == 0  # as a second Ctrl-C it does not wait


async def test_the_stop_comes_by_itself_after_the_delay(tmp_path: Path, database_url: str) -> None:
    with serve_process(tmp_path, database_url, environment={"BILLING_DRAIN_DELAY": "0.5"}) as served:
        assert get_status(served.host, served.port, "/readyz") == 200
        assert served.service.terminate() == 0


@pytest.mark.parametrize("request_begun", [b"", b"POST /usage HTTP/1.1\r\nHost: te"])
def test_connections_without_a_call_do_not_hold_up_a_stop(
    tmp_path: Path, database_url: str, request_begun: bytes
) -> None:
    with (
        serve_process(tmp_path, database_url) as served,
        socket.create_connection((served.host, served.port), timeout=PATIENCE_SECONDS) as unused,
        socket.create_connection((served.host, served.port), timeout=PATIENCE_SECONDS) as idle,
    ):
        idle.sendall(request_head("GET", "/healthz"))
        read_answer(idle).require(200)
        idle.sendall(request_begun)
        assert served.service.terminate(seconds=20) == 0  # below BILLING_SHUTDOWN_TIMEOUT
        assert (idle.recv(1), unused.recv(1)) == (b"", b"")


async def test_a_database_that_is_silent_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    hurry = {"BILLING_SHUTDOWN_TIMEOUT": "1", "BILLING_DATABASE_TIMEOUT": "3"}
    with embedded_server() as server, serve_process(tmp_path, server.start(), environment=hurry) as served:
        async with aiohttp.ClientSession(served.url) as http:
            await given_customer(http)
        with server.frozen(), socket.create_connection((served.host, served.port), timeout=PATIENCE_SECONDS) as caller:
            caller.sendall(json_request("/usage", json.dumps(usage()).encode()))
            await asyncio.sleep(0.2)  # it is under way
            served.service.process.send_signal(signal.SIGTERM)
            (await asyncio.to_thread(read_answer, caller)).problem("unavailable")
            assert served.service.wait(20) == 0
        assert "Traceback" not in served.service.output


async def test_a_call_that_a_stop_cuts_off_is_logged(
    tmp_path: Path, database_url: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with serve_process(tmp_path, database_url, environment={"BILLING_SHUTDOWN_TIMEOUT": "1"}) as served:
        async with aiohttp.ClientSession(served.url) as http, connection.transaction():
            await given_customer(http)
            await connection.execute("LOCK TABLE usage_records IN ACCESS EXCLUSIVE MODE")
            call = asyncio.create_task(post(http, "/usage/batch", {"records": [usage()]}))
            await asyncio.sleep(0.2)  # it is under way
            served.service.process.send_signal(signal.SIGTERM)
            (await call).problem("unavailable")
            assert await asyncio.to_thread(served.service.wait, 20) == 0
    assert "POST /usage/batch 503" in served.service.output


@contextmanager
def workers(folder: Path, database_url: str) -> Iterator[tuple[ServeProcess, list[psutil.Process]]]:
    """A service of two workers, one of which is ready, and its workers."""
    with serve_process(folder, database_url, "--workers", "2", environment={"BILLING_DATABASE_TIMEOUT": "3"}) as served:
        yield served, serving(served)


def serving(served: ServeProcess) -> list[psutil.Process]:
    """The processes that serve for the one that started them."""
    return [child for child in psutil.Process(served.service.process.pid).children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it may be ending
        return "spawn_main" in " ".join(process.cmdline())
    return False


async def test_workers_stop_in_order(tmp_path: Path, database_url: str) -> None:
    with workers(tmp_path, database_url) as (served, processes):
        assert len(processes) == 2
        assert served.service.terminate() == 0
        assert not any(process.is_running() for process in processes)


async def test_a_worker_that_crashed_is_replaced(tmp_path: Path, database_url: str) -> None:
    with workers(tmp_path, database_url) as (served, processes):
        processes[0].kill()
        await until(lambda: len(serving(served)) == 2 and processes[0] not in serving(served))
        await until(lambda: get_status(served.host, served.port, "/readyz") == 200)
        assert served.service.terminate() == 0


async def test_workers_do_not_outlive_the_process_that_started_them(tmp_path: Path, database_url: str) -> None:
    with workers(tmp_path, database_url) as (served, processes):
        served.service.kill()
        _, left = await asyncio.to_thread(psutil.wait_procs, processes, PATIENCE_SECONDS)
        assert not left
        assert get_status(served.host, served.port, "/healthz") is None


def is_left(balancer: Proxy, port: int) -> bool:
    """Whether all callers of a service that was told to stop have gone elsewhere: what the delay is given for."""
    if ("127.0.0.1", port) in balancer.targets:
        return False
    links = psutil.net_connections("tcp")  # of the machine: what is not accepted yet belongs to no process
    return not any(link.status == psutil.CONN_ESTABLISHED and link.laddr and link.laddr.port == port for link in links)


async def report_usage(client: BillingSystemClient, caller: int, done: asyncio.Event) -> int:
    """Report usage, one after the other, until told to end; how many there were."""
    for number in count():
        record = await client.record_usage(
            customer_id="acme", service="s", units_consumed=1, price_per_unit=1, event_id=f"{caller}-{number}"
        )
        assert record.outcome == "recorded"
        if done.is_set():
            return number + 1
    raise AssertionError


async def test_a_rolling_restart_under_load_fails_no_call_even_of_a_client_that_never_retries(
    tmp_path: Path, database_url: str
) -> None:
    ports = [free_port(), free_port()]
    done = asyncio.Event()

    def start(port: int) -> ServiceProcess:
        environment = {"DATABASE_URL": database_url} | NEVER
        return stack.enter_context(
            ServiceProcess(tmp_path / str(port), "serve", "--port", str(port), environment=environment)
        )

    async with AsyncExitStack() as stack:
        services = [start(port) for port in ports]
        for service, port in zip(services, ports, strict=True):
            await asyncio.to_thread(service.await_ready, port)
        balancer = await stack.enter_async_context(balanced(ports))
        client = BillingSystemClient(base_url=f"http://127.0.0.1:{balancer.port}", max_attempts=1)
        async with client:
            await client.create_customer(name="Acme", customer_id="acme")
            callers = [asyncio.create_task(report_usage(client, caller, done)) for caller in range(8)]
            for service, port in zip(services, ports, strict=True):
                service.process.send_signal(signal.SIGTERM)
                await until(is_left, balancer, port)
                assert await asyncio.to_thread(service.terminate, signal.SIGINT) == 0
                stack.callback(start(port).kill)
                await until(balancer.targets.__contains__, ("127.0.0.1", port))
            done.set()
            counts = await asyncio.gather(*callers)
            assert (await client.summary(customer_id="acme")).total.records == sum(counts)
