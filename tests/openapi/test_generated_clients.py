"""Clients that generators make of the document: they pass strict type checkers, and work with the real service."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from billing_client.testing import FakeBillingServer, Fault
from tests.keys import given_key
from tests.programs import UNMEASURED, bare_environment
from tests.services import Service

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/openapi.json"
OFFLINE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT", "ENETUNREACH")

PYTHON = """
import sys
from datetime import UTC, datetime
from typing import assert_type
from uuid import uuid4

from generated import AuthenticatedClient
from generated.api.customers import create_customer
from generated.api.billing import get_statement, summarize_customer
from generated.api.usage import record_batch, record_usage
from generated.models import (
    Batch, BatchResults, Customer, NewCustomer, NewUsage, NewUsageDimensions, ProblemDetails, Statement, Summary,
    UsageRecord,
)

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
customer_id = f"generated-{uuid4()}"
created = create_customer.sync(client=client, body=NewCustomer(name="Acme", id=customer_id))
assert isinstance(created, Customer)


def use(units: str, customer_id: str = customer_id, event_id: str = "a") -> NewUsage:
    return NewUsage(
        customer_id=customer_id,
        service="storage",
        units_consumed=units,
        price_per_unit="0.02",
        event_id=event_id,
        occurred_at=datetime(2026, 10, 1, tzinfo=UTC),
        dimensions=NewUsageDimensions.from_dict({"region": "eu"}),
    )


def record(usage: NewUsage, key: str) -> str:
    answer = record_usage.sync_detailed(client=client, body=usage, idempotency_key=key)
    match answer.parsed:
        case UsageRecord() as stored:
            assert_type(stored.amount, str)
            return f"{answer.headers.get('Idempotent-Replayed', 'recorded')} {stored.amount}"
        case ProblemDetails() as problem:
            return problem.code
        case _:
            return "nothing"


key = str(uuid4())
print(record(use("1.5"), key), record(use("1.5"), key))
print(record(use("1.5"), str(uuid4())), record(use("2"), str(uuid4())))
uses = [use("1", event_id="b"), use("1", event_id="b"), use("1", customer_id="nobody")]
batch = record_batch.sync(client=client, body=Batch(records=uses))
assert isinstance(batch, BatchResults)
print(*(result.outcome.value for result in batch.results))
summary = summarize_customer.sync(customer_id, client=client, group_by="service")
assert isinstance(summary, Summary)
print(*(f"{group.service} {group.records} {group.amount}" for group in summary.groups), summary.next_cursor)
statement = get_statement.sync(customer_id, client=client, month="2026-10")
assert isinstance(statement, Statement)
print(statement.total.rounded, statement.currency)
"""

RETRIES = """
import { retryingFetch } from "./dist/retry.js";
const body = JSON.stringify({ customerId: "acme", service: "s", unitsConsumed: "1", pricePerUnit: "1", eventId: "a" });
const post = () => retryingFetch()(new Request(`${process.argv[2]}/usage`, {
  method: "POST", body, headers: { "Content-Type": "application/json" } }));
const answer = await post();
console.log(answer.status, answer.headers.get("Idempotent-Replayed"), (await answer.json()).eventId);
console.log((await post()).status);
"""


def run(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        env=bare_environment() | UNMEASURED | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def done(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints that must end well."""
    finished = run(command, folder, environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_a_python_client_records_and_reads(shared_service: Service, tmp_path: Path) -> None:
    pytest.importorskip("openapi_python_client", reason="openapi-python-client is not installed")
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}  # it formats with ruff
    generate = ["generate", "--path", str(DOCUMENT), "--output-path", "generated", "--meta", "none"]
    said = done([sys.executable, "-m", "openapi_python_client", *generate], tmp_path, tools)
    assert "Warning" not in said, said  # it leaves out what it does not understand

    (tmp_path / "program.py").write_text(PYTHON)
    # the frame that every document gets is not strict about `__exit__`; what is made of ours is
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-generated.client]\nignore_errors = true\n")
    checked = done([sys.executable, "-m", "mypy", "--cache-dir", "cache", "program.py", "generated"], tmp_path)
    assert checked.startswith("Success: no issues found")

    key = asyncio.run(given_key(shared_service.settings.database_url, "admin"))
    assert done([sys.executable, "program.py", shared_service.url, key], tmp_path).splitlines() == [
        "recorded 0.03 true 0.03",
        "duplicate_record event_id_conflict",
        "recorded duplicate rejected",
        "storage 2 0.05 None",
        "0.05 USD",
    ]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in TypeScript, built in strict mode against the generated types."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    source = ROOT / "examples/typescript"
    folder = tmp_path_factory.mktemp("example") / "typescript"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "schema.ts"))
    options = ["--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline", "--fetch-retries=1"]
    installed = run(["npm", "install", *options], folder)
    if any(word in installed.stderr for word in OFFLINE):
        pytest.skip(f"the npm registry cannot be reached: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    done(["npx", "openapi-typescript", str(DOCUMENT), "--output", "src/schema.ts"], folder)
    done(["npx", "tsc", "--strict"], folder)
    return folder


@pytest.mark.slow
def test_a_typescript_client_records_and_reads(shared_service: Service, example: Path) -> None:
    said = done(["node", "dist/main.js"], example, {"BILLING_BASE_URL": shared_service.url})
    assert [line.split(maxsplit=1) for line in said.splitlines()] == [
        ["record", "recorded: 0.03"],
        ["retry", "replayed: 0.03"],
        ["again", "duplicate of 0.03"],
        ["conflict", "conflict: unitsConsumed was 1.5, now 2"],
        ["batch", "recorded 0.25"],
        ["batch", "recorded 0.5"],
        ["batch", "rejected customer_not_found"],
        ["found", "job-2 0.5"],
        ["summary", "compute 2 3 0.75"],
        ["summary", "storage 1 1.5 0.03"],
        ["statement", "0.78 USD"],
    ]
    (example / "retries.mjs").write_text(RETRIES)
    for fault in (Fault.DROP_AFTER_COMMIT, Fault.TRUNCATE, Fault.UNAVAILABLE, Fault.RESET_BEFORE):
        check_retries(example, fault)


def check_retries(example: Path, fault: Fault) -> None:
    """The retry loop of the example records once, whatever becomes of the first two attempts."""
    with FakeBillingServer() as server:
        server.add_customer("acme")
        server.misbehave(fault, times=2)
        first, last = done(["node", "retries.mjs", server.url], example).splitlines()
        lost = fault in (Fault.DROP_AFTER_COMMIT, Fault.TRUNCATE)
        assert first == ("201 true a" if lost else "201 null a"), fault
        assert last == "409", fault
        assert len(server.records) == 1, fault
        attempts = [call for call in server.calls if call.idempotency_key == server.calls[0].idempotency_key]
        assert len(attempts) == 3, fault
        assert attempts[0].idempotency_key
