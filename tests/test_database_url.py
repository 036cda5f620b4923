"""What DATABASE_URL may hold: several hosts, and parameters of libpq that asyncpg does not know."""

import socket

import pytest

from billing_service.database_url import DatabaseUrlError, parse_database_url


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@db:5432/billing", [("db:5432", "postgresql://u:p@db:5432/billing")]),
        ("postgres://db/billing?sslmode=require", [("db", "postgres://db/billing?sslmode=require")]),
        (
            "postgresql://u:p@a:1,b,[::1]:3/billing?sslmode=require",
            [
                ("a:1", "postgresql://u:p@a:1/billing?sslmode=require"),
                ("b", "postgresql://u:p@b/billing?sslmode=require"),
                ("[::1]:3", "postgresql://u:p@[::1]:3/billing?sslmode=require"),
            ],
        ),
        ("postgresql://u@/billing?host=/run/a", [("/run/a", "postgresql://u@/billing?host=/run/a")]),
        (
            "postgresql:///billing?host=/run/a,b&port=1,2&user=u",
            [
                ("/run/a", "postgresql:///billing?user=u&host=/run/a&port=1"),
                ("b", "postgresql:///billing?user=u&host=b&port=2"),
            ],
        ),
        (
            "postgresql:///billing?host=a,b&port=1",
            [("a", "postgresql:///billing?host=a&port=1"), ("b", "postgresql:///billing?host=b&port=1")],
        ),
        ("postgresql:///billing", [("the local server", "postgresql:///billing")]),
    ],
)
def test_each_host_has_a_url_of_its_own(url: str, hosts: list[tuple[str, str]]) -> None:
    assert list(parse_database_url(url).hosts) == hosts


def test_a_url_without_parameters_of_its_own_is_left_as_it_is() -> None:
    url = "postgresql://u:p%2F%40@a:1,b:2/billing?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem"
    assert parse_database_url(url).url == url


def test_parameters_that_asyncpg_does_not_know_are_taken_out() -> None:
    parsed = parse_database_url(
        "postgresql://a,b/billing?connect_timeout=3&keepalives_idle=30&keepalives_interval=5&keepalives_count=2"
        "&tcp_user_timeout=20000&sslmode=prefer&target_session_attrs=read-write"
    )
    assert parsed.url == "postgresql://a,b/billing?sslmode=prefer"
    assert parsed.hosts[1].url == "postgresql://b/billing?sslmode=prefer"
    assert parsed.connect_timeout == 3
    assert set(parsed.socket_options) == {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20000),
    }


def test_what_is_not_said_is_as_libpq_has_it() -> None:
    parsed = parse_database_url("postgresql://a/billing?connect_timeout=0&keepalives_idle=0")
    assert parsed.connect_timeout is None
    assert parsed.socket_options == ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),)
    assert parsed.wants_primary


def test_keep_alives_can_be_turned_off() -> None:
    parsed = parse_database_url("postgresql://a/billing?keepalives=0&keepalives_idle=30&tcp_user_timeout=5")
    assert parsed.socket_options == ((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5),)


@pytest.mark.parametrize("target", ["any", "standby", "prefer-standby", "read-only"])
def test_another_server_than_a_primary_has_to_be_asked_for(target: str) -> None:
    parsed = parse_database_url(f"postgresql://a/billing?target_session_attrs={target}")
    assert (parsed.target, parsed.wants_primary) == (target, False)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("mysql://s3cr3t@a/billing", "is no URL of PostgreSQL"),
        ("postgresql://u:s3cr3t@a:b/billing", "is not valid"),
        ("postgresql://u:s3cr3t@a:0/billing", "0 for a port"),
        ("postgresql://u:s3cr3t@a,,b/billing", "has no name"),
        ("postgresql:///billing?host=a,b,c&port=1,2&password=s3cr3t", "nor one for each host"),
        ("postgresql://a/billing?connect_timeout=s3cr3t", "connect_timeout is no whole number"),
        ("postgresql://a/billing?keepalives_idle=1.5", "keepalives_idle is no whole number"),
        ("postgresql://a/billing?target_session_attrs=s3cr3t", "target_session_attrs is none of any"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_shown(url: str, fault: str) -> None:
    with pytest.raises(DatabaseUrlError, match=fault) as caught:
        parse_database_url(url)
    assert "s3cr3t" not in str(caught.value)
