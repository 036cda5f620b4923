"""The embedded PostgreSQL: where its data lies, what it refuses, and what it makes of what a kill left behind."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from billing_service.database.embedded import default_data_dir, embedded_postgresql
from billing_service.settings import SettingsError
from tests.databases import embedded_folder, execute, run
from tests.services import ServiceProcess, until


async def test_the_data_stays_where_it_was_told_over_a_restart() -> None:
    with embedded_folder() as data:
        with embedded_postgresql(str(data)) as (url, folder):
            assert folder == data
            await execute(url, "CREATE TABLE kept (value text)", "INSERT INTO kept VALUES ('still there')", "SELECT 1")
        assert (data / "PG_VERSION").exists()
        assert not (data / "postmaster.pid").exists()
        with embedded_postgresql(str(data)) as (again, _):
            assert again == url
            assert await execute(again, "SELECT value FROM kept") == "still there"


def test_missing_parents_of_the_folder_are_made() -> None:
    with embedded_folder() as data:
        folder = data / "below" / "it"
        with embedded_postgresql(str(folder)):
            assert (folder / "PG_VERSION").exists()


@pytest.mark.parametrize("kind", ["a file", "below a file", "other files", "another version"])
def test_a_folder_that_is_not_to_be_used_is_refused_in_one_line(kind: str) -> None:
    with embedded_folder() as data:
        target = data
        if kind == "a file":
            data.write_text("not a folder")
        elif kind == "below a file":
            data.write_text("not a folder")
            target = data / "postgresql"
        elif kind == "other files":
            data.mkdir()
            (data / "precious.txt").write_text("not ours")
        else:
            data.mkdir()
            (data / "PG_VERSION").write_text("9")
        with pytest.raises(SettingsError) as caught, embedded_postgresql(str(target)):
            pass
        message = str(caught.value)
        assert message.startswith(f"BILLING_DATA_DIR: {str(target)!r} cannot be used")
        assert "\n" not in message
        if kind == "other files":
            assert (data / "precious.txt").read_text() == "not ours"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused() -> None:
    with embedded_folder() as data:
        data.mkdir(mode=0o500)
        with pytest.raises(SettingsError, match="BILLING_DATA_DIR"), embedded_postgresql(str(data / "postgresql")):
            pass


def test_the_default_is_not_in_the_home_folder_of_root() -> None:
    folder = default_data_dir()
    assert folder.is_absolute()
    assert folder.is_relative_to(Path.home()) != (os.geteuid() == 0)


async def kill(*processes: psutil.Process) -> None:
    """Kill processes and wait for that; nobody may reap them. Some may end with the first one, by themselves."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for process in processes:
        await until(is_dead, process)


def is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Users:
    """Processes that use the embedded server of one folder. They are reaped at the end: until then a killed one is a
    zombie, as in a container whose first process does not reap."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder = folder
        self._output = output
        self._processes: list[ServiceProcess] = []

    def start(self) -> ServiceProcess:
        """A process that begins to start the server, or to join it."""
        importable = {"PYTHONPATH": str(Path(__file__).parents[2])}
        user = ServiceProcess(
            self._output, str(self.folder), module="tests.database.embedded_user", environment=importable
        )
        self._processes.append(user)
        return user

    async def ready(self) -> ServiceProcess:
        """A process for which the server is ready."""
        user = self.start()
        await until(says, user, "postgresql://")
        return user

    async def killed(self) -> None:
        """Leave what a kill of a process and of its server leaves."""
        user = await self.ready()
        user.process.kill()
        await kill(self.postmaster)

    @property
    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "postmaster.pid").read_text().split("\n")[0]))

    def servers(self) -> list[psutil.Process]:
        """What lives of a server on the folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
                if alive and process.cwd() == str(self.folder):
                    found.append(process)
        return found

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for server in self.servers():
            with suppress(psutil.NoSuchProcess):
                server.kill()
        (self.folder / "recovery.signal").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def used_folder() -> Iterator[Path]:
    """One folder for all tests of kills, each of which leaves it as another kill might."""
    with embedded_folder() as folder:
        with embedded_postgresql(str(folder)) as (url, _):
            run(execute(url, "CREATE TABLE kept (value text)", "SELECT 1"))
        with (folder / "postgresql.auto.conf").open("a") as settings:
            settings.write("fsync = off\n")  # the machine itself is not killed
        yield folder


@pytest.fixture
def users(used_folder: Path, tmp_path: Path) -> Iterator[Users]:
    users = Users(used_folder, tmp_path)
    try:
        yield users
    finally:
        users.close()


def says(user: ServiceProcess, text: str) -> bool:
    """Whether the process has said it. It must not have ended before."""
    said = text in user.output
    assert said or user.process.poll() is None, user.output
    return said


def held_up(users: Users) -> Path:
    """Make the next start recover until the returned file is there."""
    gate = users.folder.parent / "gate"
    gate.unlink(missing_ok=True)
    wait = f"until [ -e {gate} ] || [ ! -d {gate.parent} ]; do sleep 0.05; done; false"
    with (users.folder / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"restore_command = '{wait}'\n")
    signal_file = users.folder / "recovery.signal"
    signal_file.touch()
    owner = (users.folder / "PG_VERSION").stat()
    os.chown(signal_file, owner.st_uid, owner.st_gid)
    return gate


def is_starting(users: Users) -> bool:
    file = users.folder / "postmaster.pid"
    return file.exists() and file.read_text().rstrip().endswith("starting")


@pytest.mark.parametrize("killed", ["the postmaster", "all processes"])
async def test_a_start_at_once_after_a_kill_finds_what_was_committed(users: Users, killed: str) -> None:
    user = await users.ready()
    with embedded_postgresql(str(users.folder)) as (url, _):
        await execute(url, "TRUNCATE kept", "INSERT INTO kept VALUES ('still there')", "SELECT 1")
    postmaster = users.postmaster
    victims = [postmaster, *(postmaster.children(recursive=True) if killed == "all processes" else [])]
    user.process.kill()
    await kill(*victims)
    with embedded_postgresql(str(users.folder)) as (url, _):
        assert await execute(url, "SELECT value FROM kept") == "still there"
    assert users.servers() == []


async def test_kills_in_a_row_do_not_keep_the_server_from_being_stopped(users: Users) -> None:
    for _ in range(2):
        (await users.ready()).process.kill()
    last = await users.ready()
    assert last.terminate() == 0
    assert users.servers() == []


async def test_the_last_of_several_users_stops_the_server(users: Users) -> None:
    first, second, third = await users.ready(), await users.ready(), await users.ready()
    second.process.kill()
    for user in (first, third):
        assert users.servers() != []
        assert user.terminate() == 0
    assert users.servers() == []


async def test_a_user_stops_a_server_that_another_one_started_anew(users: Users) -> None:
    first = await users.ready()
    await kill(users.postmaster)
    second = await users.ready()
    assert second.terminate() == 0
    assert users.servers() != []
    assert first.terminate() == 0
    assert users.servers() == []


async def test_a_process_that_survives_its_server_does_not_keep_the_next_one_from_starting(users: Users) -> None:
    (await users.ready()).process.kill()
    postmaster = users.postmaster
    postmaster.children()[0].suspend()  # as one that is busy: it does not notice the end of its server
    await kill(postmaster)
    with embedded_postgresql(str(users.folder)) as (url, _):
        assert await execute(url, "SELECT 1") == 1
    assert users.servers() == []


@pytest.mark.parametrize("left", ["the id of another program", "half a file"])
async def test_a_lock_file_of_a_dead_server_does_not_count(users: Users, left: str) -> None:
    await users.killed()
    file = users.folder / "postmaster.pid"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([f"{os.getpid()}\n", *lines[1:]] if left == "the id of another program" else lines[:4]))
    with embedded_postgresql(str(users.folder)) as (url, _):
        assert await execute(url, "SELECT 1") == 1
    assert users.servers() == []


async def recovering(users: Users) -> tuple[ServiceProcess, Path]:
    """A process that waits for a recovery, during which the first user was killed; and the file that lets it go on."""
    await users.killed()
    gate = held_up(users)
    first = users.start()
    await until(is_starting, users)
    first.process.kill()
    user = users.start()
    await until(says, user, " is starting; waiting for it")
    return user, gate


async def test_a_server_that_recovers_is_waited_for(users: Users) -> None:
    user, gate = await recovering(users)
    gate.touch()
    await until(says, user, "postgresql://")
    assert user.terminate() == 0
    assert users.servers() == []


async def test_a_stop_during_recovery_leaves_nothing_running(users: Users) -> None:
    user, _ = await recovering(users)
    assert user.terminate() == 0
    assert users.servers() == []


async def test_a_recovery_that_takes_longer_than_the_package_waits(users: Users) -> None:
    await users.killed()
    gate = held_up(users)
    user = users.start()
    await until(says, user, " is starting; waiting for it")  # the package has given up after ten seconds
    gate.touch()
    await until(says, user, "postgresql://")
    assert user.terminate() == 0
    assert users.servers() == []
