"""What a user's type checker sees, and what the package says it offers."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TypeGuard

import pytest

import billing_client
from tests.programs import UNMEASURED

PROGRAM = """
import asyncio
from collections.abc import AsyncIterator
from collections.abc import Generator
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, assert_type

from billing_client import (
    BillingError, BillingSystemClient, Customer, DuplicateRecordError, EventIdConflictError, FieldConflict, FieldError,
    RecorderCounts, Usage, UsageOutcome, UsageRecord, ValidationError, blocking,
)

async def metered() -> AsyncIterator[Usage]:
    yield Usage(customer_id="acme", service="storage", units_consumed=Decimal("1.5"), price_per_unit="0.02")

async def record_one(client: BillingSystemClient) -> None:
    try:
        record = await client.record_usage(
            customer_id="acme", service="storage", units_consumed=1, price_per_unit=Decimal(2),
            event_id="e", occurred_at=datetime.now(UTC), idempotency_key="k", on_duplicate="return",
        )
        assert_type(record, UsageRecord)
        assert_type(record.amount, Decimal)
        assert_type(record.outcome, Literal["recorded", "replayed", "duplicate"] | None)
    except DuplicateRecordError as error:
        assert_type(error.existing, UsageRecord)
    except EventIdConflictError as error:
        assert_type(error.conflicts, list[FieldConflict])
    except ValidationError as error:
        assert_type(error.errors, list[FieldError])
    except BillingError as error:
        assert_type(error.outcome, Literal["not_sent", "rejected", "unknown"])
        assert_type(error.status, int | None)
        assert_type(error.code, str | None)
        assert_type(error.attempts, int)

async def record_many(client: BillingSystemClient) -> None:
    async with aclosing(client.record_usages(metered(), batch_size=10, concurrency=2)) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, UsageOutcome)
            assert_type(outcome.record, UsageRecord | None)
            assert_type(outcome.error, BillingError | None)
    async for each in client.record_usages(
        [Usage(customer_id="a", service="s", units_consumed=1, price_per_unit=1)], dry_run=True
    ):
        assert_type(each.usage, Usage)

async def main() -> None:
    async with BillingSystemClient(base_url="http://127.0.0.1:3000", api_key=None, timeout=5) as client:
        assert_type(client, BillingSystemClient)
        assert_type(await client.create_customer(name="Acme"), Customer)
        assert_type(await client.get_usage(customer_id="acme", request_id="ab"), UsageRecord)
        async with aclosing(client.usage(customer_id="acme", start=datetime.now(UTC))) as records:
            assert_type([record async for record in records], list[UsageRecord])
        async with aclosing(client.customers(page_size=10)) as customers:
            assert_type([customer async for customer in customers], list[Customer])
        await record_one(client)
        await record_many(client)

def without_asyncio() -> None:
    with blocking.BillingClient(base_url="http://127.0.0.1:3000", api_key=None, timeout=5) as client:
        assert_type(client, blocking.BillingClient)
        assert_type(
            client.record_usage(customer_id="acme", service="storage", units_consumed=1, price_per_unit=1), UsageRecord
        )
        assert_type(client.usage(customer_id="acme"), Generator[UsageRecord, None, None])
        usage = Usage(customer_id="a", service="s", units_consumed=1, price_per_unit=1)
        assert_type([outcome for outcome in client.record_usages([usage], batch_size=10)], list[UsageOutcome])
        with client.recorder(spool="usage.db", on_full="raise") as recorder:
            assert_type(recorder, blocking.UsageRecorder)
            assert_type(recorder.record(usage, idempotency_key="k"), str)
            assert_type(recorder.record(customer_id="a", service="s", units_consumed=1, price_per_unit=1), str)
            assert_type(recorder.close(timeout=1), RecorderCounts)

asyncio.run(main())
"""
HEAVY = {"aiohttp", "sqlite3", "asyncio"}
MISUSES = {
    'BillingSystemClient("http://127.0.0.1")': "Too many positional arguments",
    "BillingSystemClient(base_url=5)": 'incompatible type "int"',
    'Usage("acme", "storage", 1, 1)': "Too many positional arguments",
    'Usage(customer_id="a", service="s", units_consumed=1.5, price_per_unit=1)': 'incompatible type "float"',
    'client.get_customer("acme")': "Too many positional arguments",
    'client.record_usage(customer_id="a", service="s", units_consumed=1, price_per_unit=1, on_duplicate="skip")': (
        "incompatible type \"Literal['skip']\""
    ),
    "blocking.BillingClient(base_url=5)": 'incompatible type "int"',
    "blocking_client.get_customer(5)": "Too many positional arguments",
    'blocking_client.recorder(on_full="never")': "incompatible type \"Literal['never']\"",
    "blocking_client.recorder().record(1, customer_id=5)": "No overload variant",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check(program: str, folder: Path, cache: Path) -> list[str]:
    """What mypy --strict says of a user's program."""
    file = folder / "program.py"
    file.write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", str(file)]
    environment = os.environ | UNMEASURED
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_a_users_program_passes_mypy_strict(tmp_path: Path, cache: Path) -> None:
    output = check(PROGRAM, tmp_path, cache)
    assert output == ["Success: no issues found in 1 source file"]


def test_misuse_fails_mypy_strict(tmp_path: Path, cache: Path) -> None:
    head = (
        "from billing_client import BillingSystemClient, Usage, blocking\n"
        'client = BillingSystemClient(base_url="x")\n'
        'blocking_client = blocking.BillingClient(base_url="x")\n'
    )
    *lines, _ = check(head + "\n".join(MISUSES) + "\n", tmp_path, cache)
    for number, expected in enumerate(MISUSES.values(), 4):
        assert expected in "".join(line for line in lines if line.startswith(f"program.py:{number}: error: "))


def test_a_name_that_is_not_offered_is_an_error_for_the_type_checker(tmp_path: Path, cache: Path) -> None:
    output = check("import billing_client\nbilling_client.Recoder\n", tmp_path, cache)
    assert 'error: Module has no attribute "Recoder"' in output[0]
    with pytest.raises(AttributeError, match="Recoder"):
        billing_client.Recoder  # type: ignore[attr-defined]  # noqa: B018 - looked up for its error


def test_each_offered_name_is_loaded_from_the_module_the_type_checker_sees() -> None:
    (typed,) = (node for node in ast.parse(Path(billing_client.__file__).read_text("utf-8")).body if is_typed(node))
    modules = {
        alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert billing_client.__all__ == sorted(billing_client.__all__)
    assert set(billing_client.__all__) == {*modules, "__version__"} <= set(dir(billing_client))
    for name, module in modules.items():
        assert getattr(billing_client, name) is getattr(import_module(str(module)), name)


def is_typed(node: ast.stmt) -> TypeGuard[ast.If]:
    """Whether this is the block that only type checkers run."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import billing_client.contract.decoding, billing_client.contract.wire", HEAVY),
        ("from billing_client import BillingError, Usage", HEAVY),
        ("from billing_client import Spool", {"aiohttp"}),
        (
            "from billing_client.cli.command import billing; billing(['--help'], standalone_mode=False)",
            HEAVY | {"rich"},
        ),
    ],
)
def test_what_needs_no_network_and_no_disk_loads_neither(statement: str, unwanted: set[str]) -> None:
    program = f"import sys; {statement}; sys.stderr.write(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    environment = os.environ | UNMEASURED  # coverage itself loads some of it
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert not unwanted & set(done.stderr.split())


def test_the_package_is_typed_and_tells_its_version() -> None:
    assert files("billing_client").joinpath("py.typed").is_file()
    assert billing_client.__version__ == version("billing-system")
