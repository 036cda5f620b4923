"""One clock for all processes: the database's, whatever the machines' clocks say."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from billing_service.database.clock import MAX_SKEW, Clock

DAYS = timedelta(days=40)
HALF_AN_HOUR = timedelta(minutes=30)
CLOSE = timedelta(seconds=5)


class Machine:
    """A machine whose clock is wrong by as much as it is told, and a steady clock that moves when it is told."""

    def __init__(self, error: timedelta = timedelta(0)) -> None:
        self.error = error
        self.steady = timedelta(hours=7)

    def time(self) -> datetime:
        return datetime.now(UTC) + self.error

    def steady_ns(self) -> int:
        return self.steady // timedelta(microseconds=1) * 1000


async def database_time(connection: "asyncpg.Connection[asyncpg.Record]") -> datetime:
    time: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return time


@pytest.mark.parametrize("error", [timedelta(0), DAYS, -DAYS, timedelta(minutes=-15)], ids=str)
async def test_a_wrong_machine_tells_the_databases_time(
    connection: "asyncpg.Connection[asyncpg.Record]", error: timedelta
) -> None:
    machine = Machine(error)
    clock = Clock(machine_time=machine.time)
    assert abs(clock.now() - machine.time()) < CLOSE  # it knows no better yet
    assert (clock.is_synchronised, clock.fault) == (False, None)
    await clock.synchronise(connection)
    assert abs(clock.now() - await database_time(connection)) < CLOSE
    assert abs(clock.skew - error) < CLOSE
    assert clock.is_synchronised
    assert (clock.fault is None) == (abs(error) <= MAX_SKEW)


async def test_two_processes_on_machines_far_apart_tell_the_same_time(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    fast, slow = Clock(machine_time=Machine(DAYS).time), Clock(machine_time=Machine(-DAYS).time)
    await fast.synchronise(connection)
    await slow.synchronise(connection)
    assert abs(fast.now() - slow.now()) < CLOSE


async def test_time_goes_on_with_the_steady_clock_and_not_with_the_machines(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    machine = Machine()
    clock = Clock(machine.time, machine.steady_ns)
    await clock.synchronise(connection)
    start = clock.now()
    machine.error = DAYS  # as when someone sets it
    assert clock.now() == start
    machine.steady += timedelta(seconds=30, microseconds=1)
    assert clock.now() == start + timedelta(seconds=30, microseconds=1)
    await clock.synchronise(connection)
    assert abs(clock.now() - await database_time(connection)) < CLOSE  # what the steady clock was off by is made up for
    assert abs(clock.skew - DAYS) < CLOSE


async def test_a_slow_answer_moves_neither_time_nor_skew(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    machine = Machine()
    clock = Clock(machine.time, machine.steady_ns)
    await clock.synchronise(connection)
    start = clock.now()

    def steady_ns() -> int:
        """Half an hour passes after the look, on both clocks: while the database makes up its answer."""
        now = machine.steady_ns()
        machine.steady += HALF_AN_HOUR
        machine.error += HALF_AN_HOUR
        return now

    clock._steady_ns = steady_ns
    await clock.synchronise(connection)
    assert clock.now() - start == 2 * HALF_AN_HOUR  # one for each look
    assert abs(clock.skew) < CLOSE


def test_the_fault_names_the_skew_and_which_clock_is_ahead() -> None:
    clock = Clock()
    for skew, words in ((timedelta(minutes=2), "120 seconds ahead of"), (-DAYS, "3456000 seconds behind")):
        clock.skew = skew
        assert words in (clock.fault or "")
    clock.skew = MAX_SKEW
    assert clock.fault is None
