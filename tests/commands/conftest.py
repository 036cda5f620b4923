"""What the tests of the commands may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import stop_postmaster
from tests.databases import embedded_folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for the data of an embedded server."""
    with embedded_folder() as folder:
        yield folder
        stop_postmaster(folder)
