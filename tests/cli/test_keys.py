"""The command with API keys that permit this and not that."""

from pathlib import Path

import pytest

from billing_service.settings import Settings
from tests.calls import exchange, json_request, usage
from tests.cli import billing, failure
from tests.cli.imports.bills import line, read_import, rejects_of, write_bill, write_ndjson
from tests.databases import run
from tests.keys import given_key
from tests.programs import Finished
from tests.services import Service


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of a service that asks for keys."""
    return Settings(database_url=database_url, env="production")


@pytest.fixture
def admin(service: Service) -> str:
    """A key for everything; there are two customers."""
    key = run(given_key(service.settings.database_url, "admin"))
    for id_ in ("acme", "beta"):
        body = f'{{"id": "{id_}", "name": "Name"}}'.encode()
        exchange(service, json_request("/customers", body, f"Authorization: Bearer {key}")).require(201)
    return key


def with_key(service: Service, key: str, *arguments: str | Path) -> Finished:
    return billing(*arguments, BILLING_BASE_URL=service.url, BILLING_API_KEY=key)


def test_without_a_key_nothing_is_done(service: Service, admin: str, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "usage.ndjson", usage())
    for command in (["summary"], ["export"], ["import", str(file)], ["import", str(file), "--dry-run"]):
        assert failure(with_key(service, "", *command), 4)
        assert admin not in failure(with_key(service, f"{admin}x", *command), 4)


def test_a_key_that_may_only_write_imports(service: Service, admin: str, tmp_path: Path) -> None:
    key = run(given_key(service.settings.database_url, "usage:write"))
    file = write_ndjson(tmp_path / "usage.ndjson", usage(), usage(customerId="beta"))
    assert read_import(with_key(service, key, "import", file, "--dry-run")).lines == {"lines read": 2, "missing": 2}
    assert read_import(with_key(service, key, "import", file)).lines == {"lines read": 2, "recorded": 2}
    assert "usage:read" in failure(with_key(service, key, "export"), 4)


def test_a_key_that_may_make_no_customers_is_told_how_to_go_on(service: Service, admin: str, tmp_path: Path) -> None:
    key = run(given_key(service.settings.database_url, "usage:write"))
    bill = write_bill(tmp_path / "bill.csv", ["id-1", "acme", *line("", "1", "1")[2:]])
    assert "use --no-create-customers" in failure(with_key(service, key, "import", bill), 4)
    done = with_key(service, key, "import", bill, "--no-create-customers")
    assert read_import(done).lines == {"lines read": 1, "recorded": 1}


def test_a_key_of_one_customer_imports_its_lines_alone(service: Service, admin: str, tmp_path: Path) -> None:
    key = run(given_key(service.settings.database_url, "usage:write", customer_id="acme"))
    file = write_ndjson(tmp_path / "usage.ndjson", usage(), usage(customerId="beta"))
    done = with_key(service, key, "import", file)
    assert (done.returncode, read_import(done).lines) == (1, {"lines read": 2, "recorded": 1, "rejected": 1})
    assert rejects_of(file) == [("2", "The API key is bound to another customer.")]
