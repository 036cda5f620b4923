"""TLS, against servers with real certificates: its errors are final, and nothing was sent before them."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

from billing_client import BillingSystemClient, TransportError
from tests.client.answers import USAGE, client_of, recorded
from tests.client.misbehaving import misbehaving


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts of themselves."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's context with a certificate for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def check_final(error: TransportError) -> None:
    assert type(error) is TransportError
    assert (error.attempts, error.outcome, error.status) == (1, "not_sent", None)
    assert error.idempotency_key


async def test_a_certificate_that_is_trusted_serves(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    async with misbehaving(recorded(), tls=serving(authority)) as server:
        assert server.url.startswith("https://")
        async with client_of(server, ssl_context=trusting) as client:
            assert (await client.record_usage(**USAGE)).outcome == "recorded"


async def test_a_certificate_of_an_unknown_authority_is_final(authority: trustme.CA) -> None:
    async with misbehaving(recorded(), tls=serving(authority)) as server, client_of(server) as client:
        with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await client.record_usage(**USAGE)
    check_final(caught.value)
    assert server.requests == []


async def test_a_certificate_for_another_name_is_final(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    tls = serving(authority, "billing.example")
    async with misbehaving(recorded(), tls=tls) as server, client_of(server, ssl_context=trusting) as client:
        with pytest.raises(TransportError, match="certificate is not valid for") as caught:
            await client.record_usage(**USAGE)
    check_final(caught.value)
    assert server.requests == []


async def test_a_server_without_tls_addressed_as_https_is_final() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    answering = threading.Thread(target=answer_in_plain_http, args=(listener,))
    answering.start()
    try:
        async with BillingSystemClient(base_url=f"https://127.0.0.1:{port}") as client:
            with pytest.raises(TransportError) as caught:
                await client.record_usage(**USAGE)
    finally:
        answering.join()
    check_final(caught.value)


def answer_in_plain_http(listener: socket.socket) -> None:
    """Answer the first connection as a web server answers what is not HTTP."""
    with listener, listener.accept()[0] as connection:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        connection.recv(10_000)


@contextmanager
def demanding_server(authority: trustme.CA, version: ssl.TLSVersion, refused: list[str]) -> Iterator[str]:
    """The URL of a server that demands a certificate of its clients; `refused` gets its reasons to refuse them."""
    context = serving(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse_handshakes, args=(listener, context, refused))
        refusing.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            refusing.join()


def refuse_handshakes(listener: socket.socket, context: ssl.SSLContext, refused: list[str]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection.dup() as below:  # keeps the connection, so that the alert is not lost in a reset
            try:
                context.wrap_socket(connection, server_side=True)
            except ssl.SSLError as error:
                refused.append(str(error.reason))
            while below.recv(10_000):
                pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_demands_a_certificate_is_final(
    authority: trustme.CA, trusting: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    """In TLS 1.3 the client learns of the demand only when it reads the answer."""
    refused: list[str] = []
    with demanding_server(authority, version, refused) as url:
        async with BillingSystemClient(base_url=url, ssl_context=trusting, timeout=2) as client:
            with pytest.raises(TransportError) as caught:
                await client.record_usage(**USAGE)
    assert caught.value.attempts == 1
    assert refused == ["PEER_DID_NOT_RETURN_A_CERTIFICATE"]
