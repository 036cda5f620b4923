"""`billing-service keys` as an operator meets it."""

import json
import os
import pwd
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_service.__main__ import main
from billing_service.settings import Settings
from tests.calls import exchange, request_head
from tests.databases import run
from tests.keys import given_stored_customer
from tests.programs import Finished, bare_environment, run_main
from tests.services import running_service


class Command:
    """The command on one database, run within this process, or as one of its own."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self.environment = {"DATABASE_URL": database_url, "BILLING_ENV": "production"}

    def __call__(self, *arguments: str) -> Finished:
        return run_main(main, "keys", *arguments, environment=self.environment, folder=self._folder)

    def process(self, *arguments: str) -> Finished:
        """Run it as a process, which must do its work."""
        command = [sys.executable, "-m", "billing_service", "keys", *arguments]
        environment = bare_environment() | self.environment
        return subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True, check=True)

    def output(self, *arguments: str) -> str:
        """What a command that does its work prints."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def failure(self, *arguments: str) -> str:
        """What a command that refuses says, without a traceback."""
        done = self(*arguments)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def keys(tmp_path: Path, database_url: str) -> Command:
    return Command(tmp_path, database_url)


def test_a_key_goes_from_making_it_to_its_end(keys: Command, database_url: str) -> None:
    done = keys.process("create", "--name", "nightly job", "--scope", "usage:write", "--scope", "customers:read")
    assert re.fullmatch(r"bk_[0-9a-f]{16}_[0-9a-f]{64}\n", done.stdout)
    text = done.stdout.strip()
    key_id, secret = text.rsplit("_", 1)
    assert secret not in done.stderr

    with running_service(Settings(database_url=database_url, env="production")) as service:
        exchange(service, request_head("GET", "/customers", f"Authorization: Bearer {text}")).require(200)

    heading, line = keys.process("list").stdout.splitlines()
    assert heading.split()[:3] == ["key", "state", "name"]
    assert re.fullmatch(
        rf"{key_id}  good   nightly job  usage:write customers:read  all       \S+ \S+Z  never    \S+ \S+Z", line
    )

    assert keys.process("revoke", key_id).stdout.startswith(f"{key_id} is revoked since 2")
    assert " revoked " in keys.output("list")
    with running_service(Settings(database_url=database_url, env="production")) as service:
        exchange(service, request_head("GET", "/customers", f"Authorization: Bearer {text}")).problem("unauthenticated")


def test_json_is_for_programs(keys: Command, database_url: str) -> None:
    run(given_stored_customer(database_url, "acme"))
    arguments = ("--name", "Acme", "--scope", "admin", "--scope", "admin", "--customer", "acme", "--expires", "90d")
    made = json.loads(keys.output("create", *arguments, "--json"))
    text = made.pop("key")
    assert text.startswith(f"bk_{made['id']}_")
    assert (made["name"], made["scopes"], made["customerId"]) == ("Acme", ["admin"], "acme")
    days = datetime.fromisoformat(made["expiresAt"]) - datetime.fromisoformat(made["createdAt"])
    assert timedelta(days=89, hours=23) < days <= timedelta(days=90)
    assert json.loads(keys.output("list", "--json")) == [made]
    revoked = json.loads(keys.output("revoke", made["id"], "--json"))
    assert revoked == made | {"revokedAt": revoked["revokedAt"]}
    assert text.rsplit("_", 1)[1] not in keys.output("list") + keys.output("list", "--json")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2999-01-31T12:00:00Z", datetime(2999, 1, 31, 12, tzinfo=UTC)),
        ("2999-01-31T12:00:00+02:00", datetime(2999, 1, 31, 10, tzinfo=UTC)),
        ("2999-01-31", datetime(2999, 1, 31, tzinfo=UTC)),
    ],
)
def test_an_end_may_be_given_as_a_time(keys: Command, given: str, meant: datetime) -> None:
    made = json.loads(keys.output("create", "--name", "n", "--scope", "admin", "--expires", given, "--json"))
    assert datetime.fromisoformat(made["expiresAt"]) == meant
    assert meant.strftime("%Y-%m-%d %H:%MZ") in keys.output("list")


def test_a_key_that_has_ended_is_listed_as_such(keys: Command) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    keys("create", "--name", "n", "--scope", "admin", "--expires", soon)
    while " expired " not in keys.output("list"):
        assert datetime.now(UTC) < datetime.fromisoformat(soon) + timedelta(seconds=60)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scope", "admin"], "--name"),
        (["--name", "n"], "--scope"),
        (["--name", "n", "--scope", "root"], "'root' is not one of"),
        (["--name", "", "--scope", "admin"], "--name"),
        (["--name", "\x1b[31m", "--scope", "admin"], "control characters"),
        (["--name", "n" * 101, "--scope", "admin"], "--name"),
        (["--name", "n", "--scope", "admin", "--customer", "a\nb"], "control characters"),
        (["--name", "n", "--scope", "admin", "--expires", "soon"], "must be a time"),
        (["--name", "n", "--scope", "admin", "--expires", "2001-01-01"], "must lie ahead"),
        (["--name", "n", "--scope", "admin", "--expires", "0d"], "must lie ahead"),
        (["--name", "n", "--scope", "admin", "--expires", "9999-12-31T23:59:59.999999Z"], "before the year 9999"),
    ],
)
def test_what_cannot_be_made(keys: Command, arguments: list[str], said: str) -> None:
    assert said in keys.failure("create", *arguments)


def test_a_key_is_bound_to_a_customer_that_exists(keys: Command, database_url: str) -> None:
    arguments = ("create", "--name", "n", "--scope", "admin", "--customer", "nobody")
    assert keys.failure(*arguments) == "billing-service: There is no customer 'nobody'.\n"
    assert json.loads(keys.output("list", "--json")) == []
    run(given_stored_customer(database_url, "nobody"))
    assert keys.output(*arguments).startswith("bk_")


def test_each_key_that_is_made_or_revoked_has_a_line_in_the_log(keys: Command, database_url: str) -> None:
    run(given_stored_customer(database_url, "acme"))
    keys.environment |= {"BILLING_LOG_LEVEL": "error", "USER": "somebody else", "LOGNAME": "somebody else"}
    arguments = ("--name", "n", "--scope", "usage:write", "--scope", "usage:read", "--customer", "acme")
    created = keys("create", *arguments)
    name, secret = created.stdout.strip().rsplit("_", 1)
    audited = [json.loads(line) for line in created.stderr.splitlines() if line.startswith("{")]
    audited += [json.loads(line) for line in keys("revoke", name).stderr.splitlines()]
    by = f"command line, user {pwd.getpwuid(os.getuid()).pw_name}"
    said = [(line["event"], line["key_id"], line["customer_id"], line["by"]) for line in audited]
    assert said == [("API key created", name, "acme", by), ("API key revoked", name, "acme", by)]
    assert audited[0]["scopes"] == ["usage:write", "usage:read"]
    assert secret not in created.stderr


@pytest.mark.parametrize("key", ["0" * 16, "bk_" + "0" * 16, "nightly job", f"bk_{'0' * 16}_{'0' * 64}"])
def test_what_cannot_be_revoked(keys: Command, key: str) -> None:
    assert keys.failure("revoke", key) == (
        "billing-service: there is no key with this id. Run: billing-service keys list\n"
    )


def test_a_schema_that_is_behind_is_told_in_one_line(tmp_path: Path, empty_database_url: str) -> None:
    said = Command(tmp_path, empty_database_url).failure("list")
    assert said.endswith("Run: billing-service migrate\n")
    assert said.count("\n") == 1
