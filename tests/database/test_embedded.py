"""The embedded PostgreSQL: where its data lies, and what it refuses."""

import os
from pathlib import Path

import pytest

from billing_service.database.embedded import default_data_dir, embedded_postgresql
from billing_service.settings import SettingsError
from tests.databases import embedded_folder, execute


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
