"""The examples of the client in the documentation, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from tests.cli import given_customer
from tests.programs import UNMEASURED
from tests.services import Service, free_port

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs/tutorial.md"
BLOCKING = ROOT / "docs/guides/blocking.md"
FRAMEWORKS = ROOT / "docs/guides/web-frameworks.md"
STREAMING = ROOT / "docs/guides/streaming.md"
MODELS = ROOT / "docs/guides/llm.md"
RECORDER = ROOT / "docs/guides/durable-recorder.md"
REPORTING = ROOT / "docs/guides/report-usage.md"
TESTING = ROOT / "docs/guides/test-your-code.md"
API = ROOT / "docs/reference/http-api.md"
LOCAL = "http://127.0.0.1:3000"
AROUND = (
    "import asyncio\nfrom billing_client import BillingSystemClient\n\nasync def main():\n{}\nasyncio.run(main())\n"
)

SERVED = """
import asyncio

import aiohttp
import uvicorn


async def serve() -> None:
    server = uvicorn.Server(uvicorn.Config(app, port=PORT, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    headers = {"X-Customer": "acme"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}", headers=headers) as session:
        for path in ("/files/a", "/free"):
            async with session.get(path) as response:
                print(response.status, len(await response.read()))
    server.should_exit = True
    await serving
    async with BillingSystemClient() as client:
        print([record.units_consumed async for record in client.usage(customer_id="acme")])

asyncio.run(serve())
"""


def blocks(document: Path, language: str = "python") -> list[str]:
    """The fenced blocks of a document in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(code: str, service: Service, folder: Path) -> str:
    """What a program prints that runs in this folder and talks to the service."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace(LOCAL, service.url)],
        cwd=folder,
        env={**os.environ, "BILLING_BASE_URL": service.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_programs_of_the_tutorial_print_what_it_says(service: Service, tmp_path: Path) -> None:
    programs, outputs = blocks(TUTORIAL), blocks(TUTORIAL, "text")
    assert [run(program, service, tmp_path) for program in programs] == outputs
    assert len(programs) == 5


def test_the_examples_of_reporting_run(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    outcomes, reconcile = blocks(REPORTING)
    recorded, duplicate, conflict = run(outcomes, service, tmp_path).splitlines()
    assert recorded == "recorded: 0.03"
    assert duplicate.startswith("another call recorded it at ")
    assert conflict == "unitsConsumed: recorded 1.5, submitted 2"
    assert run(reconcile, service, tmp_path) == "missing: job-0\nmissing: job-1\nmissing: job-2\n"


def test_the_examples_of_the_recorder_run(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    produce, inspect = blocks(RECORDER)
    assert "delivered=100, duplicates=0, dead=0, pending=0" in run(produce, service, tmp_path)
    assert "0 are sent again" in run(inspect, service, tmp_path)


def test_the_examples_without_asyncio_run(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    script, *_, metered, notebook = blocks(BLOCKING)
    said = run(script, service, tmp_path).splitlines()
    assert said[:4] == ["recorded 0.03", *(f"recorded job-{number}" for number in range(3))]
    assert "delivered=1, duplicates=0, dead=0, pending=0" in said[4]
    notebook = f"{notebook}\nprint(_.total.amount)".replace("client.summary", "_ = client.summary")
    assert run(f"{metered}\n{notebook}", service, tmp_path).splitlines() == ["one", "two", "three", "0.823"]


def test_the_example_of_a_metered_application_runs(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    (app,) = blocks(FRAMEWORKS)
    code = f"{app}\nPORT = {free_port()}\n{SERVED}"
    assert run(code, service, tmp_path) == "200 12\n404 22\n[Decimal('12')]\n"


def test_the_examples_of_metering_run(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    (streaming,) = blocks(STREAMING)
    said = run(streaming, service, tmp_path).splitlines()
    assert said == ["one", "two", "three", "four", "request-1 4", "request-2 2"]
    tokens = run(blocks(MODELS)[0], service, tmp_path).splitlines()
    assert len(tokens) == 7
    assert "call-1/cached_input {'model': 'gpt-4o', 'tokens': 'cached_input'} 1920 0.0024" in tokens
    (excerpt,) = blocks(MODELS, "py")
    assert excerpt in (ROOT / "examples/fastapi_llm.py").read_text("utf-8")


def write_tests(folder: Path) -> None:
    """Write the example of how to test one's code: the plugin enabled, the code, its tests."""
    for name, block in zip(("conftest.py", "jobs.py", "test_jobs.py"), blocks(TESTING), strict=True):
        (folder / name).write_text(block)


def test_the_example_of_testing_ones_code_runs(tmp_path: Path) -> None:
    write_tests(tmp_path)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-o", "asyncio_default_fixture_loop_scope=function"]
    environment = os.environ | UNMEASURED
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "3 passed in" in done.stdout, done.stdout + done.stderr


def test_the_examples_of_the_readme_run(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    first, fragment = blocks(README)
    recorded = [line.split()[0] for line in run(first, service, tmp_path).splitlines()]
    assert recorded == ["recorded"] * 4
    assert run(first, service, tmp_path).startswith("already recorded at ")
    code = AROUND.format(indent(f"async with BillingSystemClient() as client:\n{indent(fragment, '    ')}", "    "))
    run(code, service, tmp_path)
    assert (tmp_path / "usage.db").exists()


def test_the_request_id_of_the_reference_is_what_it_says(service: Service, tmp_path: Path) -> None:
    (code,) = blocks(API)
    (said,) = re.findall(r"^# ([0-9a-f]{64})$", code, re.MULTILINE)
    assert run(code, service, tmp_path) == f"{said}\n"
