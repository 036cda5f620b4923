"""The options that commands share: where the service is, and with which key to call it."""

from pathlib import Path

import pytest

from tests.cli import billing, billing_beside, failure
from tests.client.answers import json_answer
from tests.client.misbehaving import answer, disconnect, misbehaving
from tests.services import free_port

NO_CUSTOMERS = json_answer(200, {"data": [], "nextCursor": None})


async def test_the_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("bk_file\n")
    async with misbehaving(NO_CUSTOMERS) as server:
        for arguments, environment in (
            ((), {}),
            ((), {"BILLING_API_KEY": "bk_environment"}),
            (("--api-key-file", str(file)), {"BILLING_API_KEY": "bk_environment"}),
        ):
            done = await billing_beside("customers", "list", "--base-url", f"{server.url}/", *arguments, **environment)
            assert done.returncode == 0, done.stderr
    assert [request.all("Authorization") for request in server.requests] == [
        [],
        ["Bearer bk_environment"],
        ["Bearer bk_file"],
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "it is empty"), (b"\n", "it is empty"), (b"\xff\xfe", "it is not text"), ("bk_é".encode(), "no header")],
)
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    line = failure(billing("summary", "--api-key-file", file), 2)
    assert words in line
    assert "bk_" not in line


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nowhere" in failure(billing("summary", "--api-key-file", tmp_path / "nowhere"), 2)


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://127.0.0.1", "http://user@127.0.0.1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    assert "base_url is not" in failure(billing("summary", "--base-url", url), 2)


def test_where_there_is_no_service_it_exits_with_5_and_names_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (["summary"], ["export"], ["record", "--customer=a", "--service=s", "--units=1", "--price=1"]):
        line = failure(billing(*command, "--base-url", url, "--timeout", "0.5"), 5)
        assert line.startswith(url)
        assert "--base-url" in line


async def test_what_is_no_billing_service_exits_with_5() -> None:
    for page in (answer(404, b"<html>"), answer(302, Location="/login"), answer(200, b"<html>"), disconnect):
        async with misbehaving(page) as server:
            line = failure(await billing_beside("summary", "--base-url", server.url, "--timeout", "1"), 5)
            assert line.startswith(server.url)
