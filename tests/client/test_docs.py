"""The examples of the client in the documents, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from tests.cli import given_customer
from tests.services import Service

ROOT = Path(__file__).parents[2]
AROUND = (
    "import asyncio\nfrom billing_client import BillingSystemClient\n\nasync def main():\n{}\nasyncio.run(main())\n"
)


def examples(document: str, containing: str) -> list[str]:
    """The Python of a document that has these words in it."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if containing in block]


def run(code: str, service: Service, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "BILLING_BASE_URL": service.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_examples_of_the_client_document_run(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    produce, look = examples("docs/client.md", "usage.db")
    assert "delivered=100, duplicates=0, dead=0, pending=0" in run(produce, service, tmp_path)
    assert "0 are sent again" in run(look, service, tmp_path)


def write_tests(folder: Path) -> None:
    """Write the example of how to test one's code: the plugin enabled, the code, its tests."""
    section = (ROOT / "docs/client.md").read_text().partition("\n## Test your code\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    for name, block in zip(("conftest.py", "jobs.py", "test_jobs.py"), blocks, strict=True):
        (folder / name).write_text(block)


def test_the_example_of_testing_ones_code_runs(tmp_path: Path) -> None:
    write_tests(tmp_path)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "3 passed in" in done.stdout, done.stdout + done.stderr


def test_the_example_of_the_readme_runs(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    (fragment,) = examples("README.md", "usage.db")
    code = AROUND.format(indent(f"async with BillingSystemClient() as client:\n{indent(fragment, '    ')}", "    "))
    run(code + "print('done')", service, tmp_path)
    assert (tmp_path / "usage.db").exists()
