"""The client's settings: from its arguments, or from the environment."""

import logging
from typing import Any

import pytest

from billing_client import BillingError, BillingSystemClient, ConfigurationError
from tests.client.answers import USAGE, client_of, recorded
from tests.client.misbehaving import misbehaving


async def test_the_environment_gives_what_the_caller_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with misbehaving(recorded()) as server:
        monkeypatch.setenv("BILLING_BASE_URL", server.url)
        monkeypatch.setenv("BILLING_API_KEY", "from-the-environment")
        async with BillingSystemClient() as client, BillingSystemClient(api_key="given") as other:
            await client.record_usage(**USAGE)
            await other.record_usage(**USAGE)
        monkeypatch.setenv("BILLING_BASE_URL", "http://127.0.0.1:1")
        async with client_of(server) as client:
            await client.record_usage(**USAGE)
    keys = [request.header("Authorization") for request in server.requests]
    assert keys == ["Bearer from-the-environment", "Bearer given", "Bearer from-the-environment"]


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_BASE_URL", "")
    with pytest.raises(ConfigurationError, match="BILLING_BASE_URL"):
        BillingSystemClient()


def test_a_client_needs_an_address() -> None:
    with pytest.raises(ConfigurationError, match="BILLING_BASE_URL") as caught:
        BillingSystemClient()
    assert isinstance(caught.value, ValueError)
    assert (caught.value.outcome, caught.value.attempts) == ("not_sent", 0)


@pytest.mark.parametrize(
    "base_url",
    [
        "127.0.0.1:3000",
        "localhost",
        "/usage",
        "http://",
        "http:///usage",
        "ftp://127.0.0.1",
        "postgresql://127.0.0.1/billing",
        "http://127.0.0.1:3000?tenant=1",
        "http://127.0.0.1:3000#top",
        "http://127.0.0.1:3000?",
        "http://127.0.0.1:3000#",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://127.0.0.1:0",
        "http://127.0.0.1:3000\n",
        "http://127.0.0.1:3000 /",
        "http://127.0.0.1\\@billing.example",
    ],
)
def test_an_address_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        BillingSystemClient(base_url=base_url)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        BillingSystemClient(base_url="http://user:s3cret@127.0.0.1:3000")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("api_key", ["s3cret\n", "s3\0cret", "s3cret-ключ", "s3cret\ud800"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(api_key: str) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        BillingSystemClient(base_url="http://127.0.0.1:3000", api_key=api_key)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
async def test_a_line_end_after_the_key_in_the_environment_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("BILLING_API_KEY", f"bk_1{end}")
    async with misbehaving(recorded()) as server, client_of(server) as client:
        await client.record_usage(**USAGE)
    assert server.requests[0].header("Authorization") == "Bearer bk_1"


def test_a_key_in_the_environment_that_no_header_can_carry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_API_KEY", "s3\ncret\n")
    with pytest.raises(ConfigurationError, match="BILLING_API_KEY holds characters") as caught:
        BillingSystemClient(base_url="http://127.0.0.1:3000")
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_connections", 0),
        ("max_connections", -1),
    ],
)
def test_a_limit_must_be_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        BillingSystemClient(base_url="http://127.0.0.1:3000", **{name: value})


def test_a_client_shows_its_address_and_not_its_key() -> None:
    client = BillingSystemClient(base_url="http://127.0.0.1:3000/", api_key="s3cret")
    assert repr(client) == "BillingSystemClient(base_url='http://127.0.0.1:3000')"


async def test_all_arguments_go_by_name() -> None:
    with pytest.raises(TypeError):
        BillingSystemClient("http://127.0.0.1:3000")  # type: ignore[call-arg]  # the fault under test


async def test_no_limit_of_attempts_outlives_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with misbehaving(recorded()) as server:
        server.stop_listening()
        async with client_of(server, timeout=0.2, max_attempts=10**9, api_key="s3cret") as client:
            with pytest.raises(BillingError):
                await client.record_usage(**USAGE)
    assert "s3cret" not in caplog.text
