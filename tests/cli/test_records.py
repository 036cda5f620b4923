"""`billing record`"""

import asyncio
import json
import signal
from typing import Any

import pytest

from tests.calls import exchange, request_head
from tests.cli import billing, billing_beside, billing_process, failure, finish, given_customer, start
from tests.client.answers import STORED, json_answer, problem, recorded
from tests.client.misbehaving import disconnect, misbehaving, silent
from tests.programs import Finished
from tests.services import Service

ARGUMENTS = ("--customer", "acme", "--service", "storage", "--units", "1.50", "--price", "2e-2")
EVENT = ("--event-id", "event-1")  # that of `recorded()`


def record(service: Service, *more: str) -> Finished:
    return billing("record", "--base-url", service.url, *ARGUMENTS, *more)


def stored(service: Service) -> list[Any]:
    data: list[Any] = exchange(service, request_head("GET", "/customers/acme/usage")).require(200)["data"]
    return data


def test_a_use_is_recorded_and_said_in_a_line(service: Service) -> None:
    given_customer(service)
    done = record(service, "--event-id", "e-1", "--occurred-at", "2026-09-01T10:00:00+02:00")
    (kept,) = stored(service)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"recorded: 1.5 x 0.02 = 0.03, storage of acme, request id {kept['requestId']}\n"
    assert (kept["eventId"], kept["occurredAt"]) == ("e-1", "2026-09-01T08:00:00Z")


def test_the_record_as_json(service: Service) -> None:
    given_customer(service)
    arguments = ("--customer", "acme", "--service", "s", "--units", "1", "--price", "0.000000000000000001", "--json")
    pairs = ("--dimension", "model=large", "--dimension", "formula=a=b")
    done = billing("record", *arguments, *pairs, BILLING_BASE_URL=service.url)
    assert json.loads(done.stdout) == stored(service)[0] | {"outcome": "recorded"}
    assert stored(service)[0]["dimensions"] == {"formula": "a=b", "model": "large"}
    assert stored(service)[0]["amount"] == "0.000000000000000001"


@pytest.mark.parametrize("pairs", [("model",), ("=large",), ("model=a", "model=b")])
def test_dimensions_are_names_and_values(service: Service, pairs: tuple[str, ...]) -> None:
    options = [text for pair in pairs for text in ("--dimension", pair)]
    refused = record(service, *options)
    assert refused.returncode == 2
    assert "--dimension" in refused.stderr


def test_a_second_report_is_a_duplicate_and_exits_with_3(service: Service) -> None:
    given_customer(service)
    assert record(service).returncode == 0
    line = failure(record(service), 3)
    assert line.startswith(f"duplicate: it was recorded before, at {stored(service)[0]['recordedAt'][:19]}")
    assert "eventId" in line
    again = record(service, "--json")
    assert (again.returncode, again.stdout) == (3, "")
    error = json.loads(again.stderr)["error"]
    assert error["existing"] == stored(service)[0] | {"outcome": "duplicate", "dimensions": {}}
    assert (error["code"], error["exitCode"], error["outcome"]) == ("duplicate_record", 3, "rejected")
    assert len(stored(service)) == 1


def test_a_duplicate_may_be_welcome(service: Service) -> None:
    given_customer(service)
    outcomes = [record(service, "--on-duplicate", "return") for _ in range(2)]
    assert [(each.returncode, each.stdout.partition(":")[0]) for each in outcomes] == [
        (0, "recorded"),
        (0, "duplicate"),
    ]


def test_the_same_key_repeats_the_call(service: Service) -> None:
    given_customer(service)
    assert record(service, "--idempotency-key", "k").stdout.startswith("recorded: ")
    assert record(service, "--idempotency-key", "k").stdout.startswith("replayed: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--price", "-1"], "/pricePerUnit: must not be negative"),
        (
            ["--units", "many", "--price", "NaN"],
            "/unitsConsumed: must be a finite decimal number; /pricePerUnit: must be",
        ),
        (["--customer", "nobody"], "There is no customer 'nobody'"),
        (["--occurred-at", "2999-01-01T00:00:00Z"], "5 minutes ahead"),
        (["--idempotency-key", "two words"], "header/Idempotency-Key"),
    ],
)
def test_what_is_refused_is_named_and_exits_with_1(service: Service, changes: list[str], words: str) -> None:
    given_customer(service)
    assert words in failure(record(service, *changes), 1)
    assert stored(service) == []


def test_an_event_id_that_comes_with_other_data_exits_with_1_and_says_what_differs(service: Service) -> None:
    given_customer(service)
    record(service, "--event-id", "e")
    assert "unitsConsumed was 1.5, now 2" in failure(record(service, "--event-id", "e", "--units", "2"), 1)
    error = json.loads(record(service, "--event-id", "e", "--price", "3", "--json").stderr)["error"]
    assert error["conflicts"] == [{"field": "pricePerUnit", "recorded": "0.02", "submitted": "3"}]


def test_a_time_without_an_offset_is_refused(service: Service) -> None:
    refused = record(service, "--occurred-at", "2026-09-01")
    assert refused.returncode == 2
    assert "needs an offset" in refused.stderr


def test_a_terminal_that_cannot_show_a_name_is_no_fault(service: Service) -> None:
    given_customer(service)
    arguments = ("record", *ARGUMENTS, "--service", "caf\xe9 \U0001f980", "--base-url", service.url)
    done = billing_process(*arguments, PYTHONUTF8="0", PYTHONIOENCODING="iso8859-5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "caf\\xe9 \\U0001f980 of acme" in done.stdout
    assert stored(service)[0]["service"] == "caf\xe9 \U0001f980"


async def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    async with misbehaving(disconnect, disconnect, recorded(Idempotent_Replayed="true")) as server:
        done = await billing_beside("record", *ARGUMENTS, *EVENT, BILLING_BASE_URL=server.url)
    assert done.stdout.startswith("replayed: ")


async def test_without_an_answer_it_exits_with_6_and_the_key_repeats_the_call() -> None:
    async with misbehaving(silent, silent, recorded(Idempotent_Replayed="true")) as server:
        lost = await billing_beside(
            "record", *ARGUMENTS, *EVENT, "--timeout", "2", "--json", BILLING_BASE_URL=server.url
        )
        error = json.loads(lost.stderr)["error"]
        assert (lost.returncode, error["outcome"], error["exitCode"]) == (6, "unknown", 6)
        key = error["idempotencyKey"]
        assert f"--idempotency-key {key}" in error["detail"]
        again = await billing_beside(
            "record", *ARGUMENTS, *EVENT, "--idempotency-key", key, BILLING_BASE_URL=server.url
        )
    assert again.stdout.startswith("replayed: ")
    assert {request.header("Idempotency-Key") for request in server.requests} == {key}


async def test_ctrl_c_exits_with_130_and_names_the_key() -> None:
    async with misbehaving(silent) as server:
        process = start("record", *ARGUMENTS, *EVENT, BILLING_BASE_URL=server.url)
        await server.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        stopped = await asyncio.to_thread(finish, process)
        key = server.requests[0].header("Idempotency-Key")
    assert f"--idempotency-key {key}" in failure(stopped, 130)


@pytest.mark.parametrize(("status", "code"), [(401, "unauthenticated"), (403, "forbidden")])
async def test_a_key_that_is_not_let_in_exits_with_4(status: int, code: str) -> None:
    async with misbehaving(problem(status, code)) as server:
        denied = await billing_beside("record", *ARGUMENTS, *EVENT, BILLING_BASE_URL=server.url, BILLING_API_KEY="bk_1")
        assert server.requests[0].header("Authorization") == "Bearer bk_1"
    assert "What is wrong" in failure(denied, 4)


EVIL = "\x1b]0;title\x07\x9b2J\u202e"


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_a_server_cannot_steer_the_terminal(options: tuple[str, ...]) -> None:
    conflict = [{"field": EVIL, "recorded": EVIL, "submitted": EVIL}]
    evil = STORED | {"recordedBy": EVIL}
    async with misbehaving(
        problem(404, "customer_not_found", detail=EVIL),
        problem(422, "event_id_conflict", detail=EVIL, existing=evil | {"service": EVIL}, conflicts=conflict),
        json_answer(201, evil),
    ) as server:
        for code in (1, 1, 0):
            done = await billing_beside("record", *ARGUMENTS, *EVENT, *options, BILLING_BASE_URL=server.url)
            assert done.returncode == code
            assert not set("\x1b\x07\x9b") & set(done.stdout + done.stderr), done
