"""The examples of the recorder in the documents, run as they stand there."""

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


def test_the_example_of_the_readme_runs(service: Service, tmp_path: Path) -> None:
    given_customer(service)
    (fragment,) = examples("README.md", "usage.db")
    code = AROUND.format(indent(f"async with BillingSystemClient() as client:\n{indent(fragment, '    ')}", "    "))
    run(code + "print('done')", service, tmp_path)
    assert (tmp_path / "usage.db").exists()
