"""The faults, each by its name: made, held for a while, and ended."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from tests.databases import execute
from tests.faults.producer import Kind
from tests.faults.proxy import Break, Proxy
from tests.faults.stage import DATABASE_SECONDS, MAX_CONNECTIONS, Stage

Fault = Callable[[Stage, random.Random], Awaitable[None]]
_SESSIONS_END = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'billing-service'"
)


async def _hold(draw: random.Random, least: float, most: float) -> None:
    await asyncio.sleep(draw.uniform(least, most))


async def kill_service(stage: Stage, draw: random.Random) -> None:
    index = draw.randrange(len(stage.ports))
    stage.services[index].kill()
    await _hold(draw, 0, 0.5)
    await stage.start_service(index)


async def kill_both_services(stage: Stage, draw: random.Random) -> None:
    for service in stage.services.values():
        service.kill()
    await _hold(draw, 0, 0.5)
    await asyncio.gather(*(stage.start_service(index) for index in range(len(stage.ports))))


async def stop_service(stage: Stage, draw: random.Random) -> None:
    index = draw.randrange(len(stage.ports))
    await stage.stop_service(index)
    await stage.start_service(index)


async def restart_one_by_one(stage: Stage, _: random.Random) -> None:
    for index in range(len(stage.ports)):
        await stage.stop_service(index)
        await stage.start_service(index)


def _kill_producer(kind: Kind) -> Fault:
    async def fault(stage: Stage, draw: random.Random) -> None:
        task = draw.choice([task for task in stage.tasks if task.kind == kind])
        stage.producers[task.index].kill()
        await _hold(draw, 0, 0.5)
        await stage.start_producer(task)

    return fault


async def kill_postgresql(stage: Stage, draw: random.Random) -> None:
    await asyncio.to_thread(stage.server.kill)
    await _hold(draw, 0, 0.5)
    await stage.revive_server()


async def stop_postgresql(stage: Stage, draw: random.Random) -> None:
    """Connections are refused for a while."""
    await asyncio.to_thread(stage.server.stop)
    await _hold(draw, 0.5, 2)
    await stage.revive_server()


async def freeze_postgresql(stage: Stage, draw: random.Random) -> None:
    """For longer than the service waits, or not."""
    with stage.server.frozen():
        await _hold(draw, 0.5, 2.5 * DATABASE_SECONDS)


async def end_sessions(stage: Stage, _: random.Random) -> None:
    await execute(stage.url, _SESSIONS_END)


async def no_connection_left(stage: Stage, draw: random.Random) -> None:
    """Take every connection that the server has, after ending the service's own."""
    taken: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        for _ in range(MAX_CONNECTIONS):
            with suppress(asyncpg.TooManyConnectionsError):
                taken.append(await asyncpg.connect(stage.url))
            await taken[0].execute(_SESSIONS_END)
        await _hold(draw, 0.5, 2)
    finally:
        for connection in taken:
            await connection.close()


async def statement_timeout(stage: Stage, draw: random.Random) -> None:
    await _time_out(stage, draw, "statement_timeout")


async def lock_timeout(stage: Stage, draw: random.Random) -> None:
    await _time_out(stage, draw, "lock_timeout")


async def _time_out(stage: Stage, draw: random.Random, setting: str) -> None:
    """Hold a lock that every report needs, while statements of new sessions may not wait for it."""
    name = await execute(stage.url, "SELECT current_database()")
    holder = await asyncpg.connect(stage.url)
    try:
        await holder.execute(f'ALTER DATABASE "{name}" SET {setting} = 200')
        await holder.execute(_SESSIONS_END)
        async with holder.transaction():
            await holder.execute("LOCK TABLE usage_records IN EXCLUSIVE MODE")
            await _hold(draw, 0.5, 2)
    finally:
        await holder.execute(f'ALTER DATABASE "{name}" RESET {setting}')
        await holder.execute(_SESSIONS_END)
        await holder.close()


async def disk_full(stage: Stage, draw: random.Random) -> None:
    """PostgreSQL fails to write, and may crash of it; there is room again, and it comes back."""
    if stage.disk is not None:
        await asyncio.to_thread(stage.disk.fill)
        await _hold(draw, 1, 3)
        await asyncio.to_thread(stage.disk.empty)
        await stage.revive_server()


def _breaks(draw: random.Random, kind: str, most: int) -> list[Break]:
    """Some breaks, each at another place of what is broken, the place before its first byte included."""
    places = [draw.choice((0, 0, draw.randrange(1, most))) for _ in range(draw.randrange(1, 6))]
    match kind:
        case "delay":
            return [Break("delay", seconds=draw.uniform(0.1, 1.5)) for _ in places]
        case "reset" | "close" | "silence":
            return [Break(kind, after) for after in places]
    raise ValueError(kind)


def _broken(proxy: Callable[[Stage], Proxy], way: str, kind: str, most: int) -> Fault:
    async def fault(stage: Stage, draw: random.Random) -> None:
        getattr(proxy(stage), way).extend(_breaks(draw, kind, most))

    return fault


def _all_links(proxy: Callable[[Stage], Proxy], what: str) -> Fault:
    async def fault(stage: Stage, draw: random.Random) -> None:
        getattr(proxy(stage), what)()

    return fault


def _refused(proxy: Callable[[Stage], Proxy]) -> Fault:
    async def fault(stage: Stage, draw: random.Random) -> None:
        proxy(stage).refusing = True
        proxy(stage).reset_all()
        await _hold(draw, 0.2, 1.5)
        proxy(stage).refusing = False

    return fault


def _frozen(proxy: Callable[[Stage], Proxy]) -> Fault:
    async def fault(stage: Stage, draw: random.Random) -> None:
        proxy(stage).freeze()
        await _hold(draw, 0.5, 2.5 * DATABASE_SECONDS)
        proxy(stage).thaw()

    return fault


def _link_faults(side: str, proxy: Callable[[Stage], Proxy], most: int) -> dict[str, Fault]:
    """The faults of the connections on one side of the services; answers have about `most` bytes."""
    return {
        f"{side}: all connections reset": _all_links(proxy, "reset_all"),
        f"{side}: all connections fall silent": _all_links(proxy, "silence_all"),
        f"{side}: connections refused": _refused(proxy),
        f"{side}: network stands still": _frozen(proxy),
        f"{side}: answers cut off, after the commit": _broken(proxy, "answers", "reset", most),
        f"{side}: answers truncated": _broken(proxy, "answers", "close", most),
        f"{side}: answers that never come": _broken(proxy, "answers", "silence", most),
        f"{side}: answers delayed": _broken(proxy, "answers", "delay", most),
        f"{side}: requests cut off": _broken(proxy, "requests", "reset", most),
    }


GROUPS: dict[str, dict[str, Fault]] = {
    "service": {
        "service: kill -9": kill_service,
        "service: kill -9 of both": kill_both_services,
        "service: SIGTERM": stop_service,
        "service: rolling restart": restart_one_by_one,
    },
    "producer": {
        "producer of single calls: kill -9": _kill_producer("single"),
        "producer of batches: kill -9": _kill_producer("batch"),
        "producer with a spool: kill -9": _kill_producer("spool"),
    },
    "postgresql": {
        "PostgreSQL: kill -9": kill_postgresql,
        "PostgreSQL: stopped": stop_postgresql,
        "PostgreSQL: frozen": freeze_postgresql,
        "PostgreSQL: sessions ended": end_sessions,
        "PostgreSQL: out of connections": no_connection_left,
        "PostgreSQL: statement time-out": statement_timeout,
        "PostgreSQL: lock time-out": lock_timeout,
        "PostgreSQL: disk full": disk_full,
    },
    "client link": _link_faults("client to service", lambda stage: stage.front, 600),
    "database link": _link_faults("service to PostgreSQL", lambda stage: stage.database, 300),
}
FAULTS = {name: fault for group in GROUPS.values() for name, fault in group.items()}
