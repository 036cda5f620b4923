"""What befalls a primary and its standby while usage is reported."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from msgspec import Struct

from tests.calls import get, post, usage
from tests.databases import execute
from tests.faults.machines.fronts import PgBouncer
from tests.faults.machines.stage import Machines, MachinesStage
from tests.faults.stage import PATIENCE_SECONDS, StuckError
from tests.faults.usages import CUSTOMERS

Scenario = Callable[[MachinesStage], Coroutine[Any, Any, None]]
HOLD_SECONDS = 1.5
LONG_SECONDS = 2 * HOLD_SECONDS  # more than a call waits
SOME = 100  # records
SYNC = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
NOW = "SELECT clock_timestamp()"
CLOSE = timedelta(seconds=30)  # far less than any clock is wrong by, far more than a call takes
AHEAD = timedelta(minutes=4)  # usage may be as far ahead of the time
TOO_FAR_AHEAD = timedelta(minutes=7)


async def killed(stage: MachinesStage) -> None:
    """The machine of the primary is lost, and the standby promoted."""
    stage.servers.primary.kill()
    await stage.promote()


async def killed_while_behind(stage: MachinesStage) -> None:
    """The standby receives nothing for a while, and then the primary is lost, with all that was on the way."""
    stage.link.freeze()
    await stage.until_recorded(SOME)
    stage.servers.primary.kill()
    stage.link.reset_all()
    await stage.promote()


async def frozen_and_back(stage: MachinesStage) -> None:
    """The primary stands still, the standby is promoted, and the old primary goes on where it was."""
    with stage.servers.primary.frozen():
        await stage.promote()
        await asyncio.sleep(HOLD_SECONDS)
    await asyncio.sleep(HOLD_SECONDS)


async def cut_off_and_back(stage: MachinesStage) -> None:
    """The services lose the primary, the standby is promoted, and the way to the old primary is open again."""
    way = stage.ways[0]
    way.refusing = True
    way.silence_all()
    await stage.promote()
    await asyncio.sleep(HOLD_SECONDS)
    way.refusing = False
    await asyncio.sleep(HOLD_SECONDS)


async def link_cut_then_killed(stage: MachinesStage) -> None:
    """The connection between the two is reset, and none can be made; then the primary is lost."""
    stage.link.refusing = True
    stage.link.reset_all()
    await asyncio.sleep(LONG_SECONDS)
    stage.servers.primary.kill()
    await stage.promote()


async def link_silent_then_killed(stage: MachinesStage) -> None:
    """Between the two nothing arrives any more, and neither is told; then the primary is lost."""
    stage.link.freeze()
    await asyncio.sleep(LONG_SECONDS)
    stage.servers.primary.kill()
    await stage.promote()


async def link_cut_and_back(stage: MachinesStage) -> None:
    """The connection between the two is reset, and none can be made for longer than a call waits."""
    stage.link.refusing = True
    stage.link.reset_all()
    await asyncio.sleep(LONG_SECONDS)
    stage.link.refusing = False
    await asyncio.to_thread(stage.servers.primary.await_value, SYNC, 1)
    await stage.recover()


async def standby_frozen_then_killed(stage: MachinesStage) -> None:
    """The standby stands still for longer than a call waits, and then the primary is lost."""
    with stage.servers.standby.frozen():
        await asyncio.sleep(LONG_SECONDS)
    stage.servers.primary.kill()
    await stage.promote()


async def standby_away(stage: MachinesStage) -> None:
    """The standby is away for longer than a call waits, and comes back."""
    await asyncio.to_thread(stage.servers.standby.stop)
    await asyncio.sleep(LONG_SECONDS)
    await asyncio.to_thread(stage.servers.standby.start)
    await asyncio.to_thread(stage.servers.primary.await_value, SYNC, 1)
    await stage.recover()


async def address_leads_to_the_standby(stage: MachinesStage) -> None:
    """The one address that the services have leads to the standby for a while."""
    way = stage.ways[0]
    way.targets[:] = [("127.0.0.1", stage.servers.standby.port)]
    way.reset_all()
    await asyncio.sleep(LONG_SECONDS)
    way.targets[:] = [("127.0.0.1", stage.servers.primary.port)]
    way.reset_all()
    await stage.recover()


async def comes_back_as_it_was(stage: MachinesStage) -> None:
    """The primary is lost, the standby promoted, and the lost one started again as it was: there are two primaries."""
    await killed(stage)
    await asyncio.to_thread(stage.servers.primary.start)
    await asyncio.sleep(LONG_SECONDS)
    await stage.recover()


async def pooler_restarted(stage: MachinesStage) -> None:
    """PgBouncer is killed, away for a while, and started again."""
    bouncer = pooler_of(stage)
    await asyncio.to_thread(bouncer.stop)
    await asyncio.sleep(HOLD_SECONDS)
    await asyncio.to_thread(bouncer.start)
    await stage.recover()


async def pooler_paused(stage: MachinesStage) -> None:
    """PgBouncer is told to let nothing through for longer than a call waits."""
    bouncer = pooler_of(stage)
    await asyncio.to_thread(bouncer.pause, LONG_SECONDS)
    await asyncio.to_thread(bouncer.tell, "RESUME")
    await stage.recover()


async def switched_over_by_pause(stage: MachinesStage) -> None:
    """PgBouncer is paused, the primary stopped in order, the standby promoted, PgBouncer led there and let go on."""
    bouncer = pooler_of(stage)
    await asyncio.to_thread(bouncer.pause, HOLD_SECONDS)
    await asyncio.to_thread(stage.servers.primary.stop)
    await asyncio.to_thread(stage.servers.standby.promote)
    await asyncio.to_thread(bouncer.lead_to, stage.ways[1].port)
    await asyncio.to_thread(bouncer.tell, "RESUME")
    await stage.lead_to_the_standby()


def pooler_of(stage: MachinesStage) -> PgBouncer:
    """The PgBouncer in front."""
    front = stage.fronts[0]
    if not isinstance(front, PgBouncer):
        raise TypeError("there is no PgBouncer in front")
    return front


async def clocks_differ(stage: MachinesStage) -> None:
    """The clocks of the services are wrong, and both tell the primary's time; then the primary is lost."""
    for port in stage.ports:
        await require_time_of(port, stage.url)
    await killed(stage)
    for port in stage.ports:
        await require_time_of(port, stage.url)


async def standby_clock_differs(stage: MachinesStage) -> None:
    """The primary is lost, and the new one's clock is wrong. Services take its time over within a minute."""
    await killed(stage)
    for port in stage.ports:
        await require_time_of(port, stage.url, may_lag=True)


async def require_time_of(port: int, database_url: str, *, may_lag: bool = False) -> None:
    """Raise StuckError if a service tells another time than its database, or judges usage by another.

    With `may_lag` it may also tell the time of this machine, which was that of the primary before.
    """
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http, asyncio.timeout(PATIENCE_SECONDS):
        while (answer := await get(http, f"/customers/{CUSTOMERS[0]}/statement?month=2025-01")).status == 503:  # noqa: ASYNC110 - no event tells of another process
            await asyncio.sleep(0.1)
        told = datetime.fromisoformat(answer.require(200)["asOf"])
        times = [await execute(database_url, NOW)] + [datetime.now(UTC)] * may_lag
        if not any(abs(told - time) < CLOSE for time in times):
            raise StuckError(f"a service says that it is {told}, and the database {times}")
        records = [
            usage(customerId=CUSTOMERS[0], eventId=f"{ahead}", occurredAt=(told + ahead).isoformat())
            for ahead in (AHEAD, TOO_FAR_AHEAD)
        ]
        answer = await post(http, "/usage/batch?dryRun=true", {"records": records})
        outcomes = [result["outcome"] for result in answer.require(200)["results"]]
        if outcomes != ["recordable", "rejected"] and not may_lag:
            raise StuckError(f"a service takes {outcomes} at {told}")


async def restored_to_a_moment(stage: MachinesStage) -> None:
    """The database is put back to an earlier moment: a standby that stopped there becomes the primary."""
    await asyncio.to_thread(stage.servers.standby.stop)
    await stage.until_recorded(SOME)
    stage.servers.primary.kill()
    await asyncio.to_thread(stage.servers.standby.start)
    await stage.promote()


async def recovered_from_an_archive(stage: MachinesStage) -> None:
    """The database is recovered to an earlier moment, from a backup and the archive of what was written after it."""
    primary = stage.servers.primary
    moment = await execute(stage.url, "SELECT clock_timestamp()::text")
    await stage.until_recorded(SOME)
    last = await execute(stage.url, "SELECT pg_walfile_name(pg_switch_wal())")
    await asyncio.to_thread(primary.await_value, f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver", True)
    primary.kill()
    await asyncio.to_thread(stage.servers.standby.restore, stage.backup, stage.archive, moment)
    await stage.lead_to_the_standby()


class Case(Struct, frozen=True):
    """A scenario, and what it befalls. `may_lose` says that replication does not promise all."""

    scenario: Scenario
    machines: Machines = Machines()
    may_lose: bool = False


_HAPROXY = Machines(front="haproxy")
_PGBOUNCERS = Machines(front="pgbouncers transaction")
_ASYNCHRONOUS = Machines(synchronous=False)
CASES = {
    "primary killed, standby promoted": Case(killed),
    "primary frozen, comes back as a zombie": Case(frozen_and_back),
    "primary cut off, comes back as a zombie": Case(cut_off_and_back),
    "link between the two cut, then failover": Case(link_cut_then_killed),
    "link between the two silent, then failover": Case(link_silent_then_killed),
    "link between the two cut and back": Case(link_cut_and_back),
    "standby frozen, then failover": Case(standby_frozen_then_killed),
    "standby away and back": Case(standby_away),
    "address leads to the standby for a while": Case(address_leads_to_the_standby, Machines(one_address=True)),
    "clocks of the services wrong": Case(clocks_differ, Machines(service_clocks=("-15m", "+40d"))),
    "clock of the standby slow": Case(standby_clock_differs, Machines(standby_clock="-15m")),
    "clock of the standby fast": Case(standby_clock_differs, Machines(standby_clock="+40d")),
    "HAProxy in front: primary killed": Case(killed, _HAPROXY),
    "HAProxy in front: primary frozen, comes back": Case(frozen_and_back, _HAPROXY),
    "HAProxy in front: primary started again as it was": Case(comes_back_as_it_was, _HAPROXY),
    "PgBouncer beside each server: primary killed": Case(killed, _PGBOUNCERS),
    "PgBouncer beside each server: primary frozen, comes back": Case(frozen_and_back, _PGBOUNCERS),
    **{
        f"PgBouncer in {mode} mode: {what}": Case(scenario, Machines(front=f"pgbouncer {mode}"))
        for mode in ("session", "transaction")
        for what, scenario in {
            "primary killed": killed,
            "primary frozen, comes back": frozen_and_back,
            "killed and started again": pooler_restarted,
            "paused": pooler_paused,
            "paused for a switchover": switched_over_by_pause,
        }.items()
    },
    "asynchronous: primary killed": Case(killed, _ASYNCHRONOUS, may_lose=True),
    "asynchronous: primary killed while the standby is behind": Case(killed_while_behind, _ASYNCHRONOUS, may_lose=True),
    "restored to an earlier moment": Case(restored_to_a_moment, _ASYNCHRONOUS, may_lose=True),
    "recovered to a moment from an archive": Case(
        recovered_from_an_archive, Machines(synchronous=False, archives=True), may_lose=True
    ),
}
