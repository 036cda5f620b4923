"""An `Upgrade` that is not taken is ignored, and the body belongs to its request (RFC 9110, section 7.8)."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.calls import read_answer, request_head, usage
from tests.http.bare import BareApp, Served, connect, read_answers, serving
from tests.services import Service, free_port

BODY = b'{"n": 1}'
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer stolen\r\n\r\n"
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(BareApp()) as served:
        yield served


def post(path: str, body: bytes, *headers: str) -> bytes:
    return request_head("POST", path, f"Content-Length: {len(body)}", *headers) + body


def chunked(path: str, *chunks: bytes, headers: tuple[str, ...]) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return request_head("POST", path, "Transfer-Encoding: chunked", *headers) + framed


UPGRADES = {
    "as Java and curl ask": H2C,
    "a WebSocket": ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "in capitals": ("CONNECTION: UPGRADE", "UPGRADE: H2C"),
    "on several lines": ("Upgrade: h2c", "Connection: keep-alive", "Upgrade: websocket", "connection: upgrade"),
    "without a protocol": ("Connection: upgrade", "Upgrade:"),
    "before an expectation": (*H2C, "Expect: 200-ok"),
}


@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("in_chunks", [False, True], ids=["whole", "chunked"])
def test_the_body_is_that_of_the_request(served: Served, headers: tuple[str, ...], in_chunks: bool) -> None:
    first = (
        chunked("/first", HIDDEN[:9], HIDDEN[9:], headers=headers) if in_chunks else post("/first", HIDDEN, *headers)
    )
    with connect(served) as connection:
        connection.sendall(first + post("/second", BODY, *headers) + request_head("GET", "/third"))
        answers = [answer.require(200) for answer in read_answers(connection, 3)]
    assert [answer["body"].encode() for answer in answers] == [HIDDEN, BODY, b""]
    assert served.app.heads == [("POST", "/first"), ("POST", "/second"), ("GET", "/third")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_however_it_arrives(served: Served, size: int) -> None:
    sent = post("/first", HIDDEN, *H2C) + chunked("/second", BODY, headers=H2C) + request_head("GET", "/third", *H2C)
    with connect(served) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):
            connection.sendall(sent[start : start + size])
            time.sleep(0.0005)
        answers = [answer.require(200) for answer in read_answers(connection, 3)]
    assert [answer["body"].encode() for answer in answers] == [HIDDEN, BODY, b""]
    assert served.app.heads == [("POST", "/first"), ("POST", "/second"), ("GET", "/third")]


def test_the_other_headers_reach_the_application_as_they_were_sent(served: Served) -> None:
    headers = ("X-Empty:", "X-Twice: a", *H2C, "X-Twice: b , c ", "X-Bytes: \xe9\xff")
    with connect(served) as connection:
        connection.sendall(post("http://other:81/path?a=b", BODY, *headers))
        seen = read_answer(connection).require(200)
        connection.sendall(post("http://other:81/path?a=b", BODY, *headers).replace(b"Upgrade: h2c\r\n", b""))
        usual = read_answer(connection).require(200)
    assert seen == usual


def test_a_large_body_is_read_to_its_end(served: Served) -> None:
    body = b"GET / HTTP/1.1\r\n\r\n" * 100_000
    with connect(served) as connection:
        connection.sendall(post("/first", body, *H2C))
        assert read_answer(connection).require(200)["body"].encode() == body
    assert served.app.heads == [("POST", "/first")]


def test_a_caller_that_waits_is_told_to_go_on(served: Served) -> None:
    whole = post("/first", BODY, *H2C, "Expect: 100-continue")
    with connect(served) as connection:
        connection.sendall(whole[: -len(BODY)])
        assert connection.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_answer(connection).require(200)["body"].encode() == BODY


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 8\r\nContent-Length: 8",
        "Content-Length: 8\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Content-Length: -1",
    ],
)
def test_a_body_whose_end_is_in_doubt_is_still_refused(served: Served, framing: str) -> None:
    with connect(served) as connection:
        connection.sendall(request_head("POST", "/", *H2C, framing) + BODY)
        read_answer(connection).problem("validation_error")
        assert connection.recv(1000) == b""


def test_many_in_one_go_are_told_apart(served: Served) -> None:
    requests = [post(f"/{n}", BODY, *H2C) for n in range(60)]
    with connect(served) as connection:
        connection.sendall(b"".join(requests))
        answers = read_answers(connection, len(requests))
        assert [answer.require(200)["path"] for answer in answers] == [f"/{n}" for n in range(60)]


CURL = shutil.which("curl")
JAVA = shutil.which("java")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_that_asks_for_http2_posts(shared_service: Service, customer: str) -> None:
    command = [str(CURL), "-sS", "--http2", "-H", "Content-Type: application/json", "-d", _usage(customer)]
    for status in ("201", "409"):
        done = subprocess.run(
            [*command, "-w", "\n%{http_code}", f"{shared_service.url}/usage"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.rpartition("\n")[2] == status


def _usage(customer: str) -> str:
    return json.dumps(usage(customerId=customer))


JAVA_CLIENT = """
import java.net.URI;
import java.net.http.*;

public class Post {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int n = 0; n < 3; n++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(args[0])).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(args[1])).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


@pytest.mark.skipif(JAVA is None, reason="Java is not installed")
def test_the_client_of_java_posts(tmp_path: Path, shared_service: Service, customer: str) -> None:
    source = tmp_path / "Post.java"
    source.write_text(JAVA_CLIENT)
    command = [str(JAVA), str(source), f"{shared_service.url}/usage", _usage(customer)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "Error: " in done.stderr or "release version" in done.stderr:
        pytest.skip(f"this Java runs no source file: {done.stderr.splitlines()[0]}")
    assert done.stdout.split() == ["201", "409", "409"], done.stderr


NGINX_CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream service {{ server 127.0.0.1:{upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[int]:
    """An nginx set up for WebSockets, as its documentation says; the port it listens on."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=folder, port=port, upstream=upstream))
    with subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(500):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nothing_is_smuggled_past_an_nginx_that_passes_upgrades_on(tmp_path: Path, served: Served) -> None:
    with nginx(tmp_path, served.port) as port:
        answers: list[Any] = []
        for body in (HIDDEN, BODY):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(post("/first", body, *H2C))
                answers.append(read_answer(connection).require(200))
    assert [answer["body"].encode() for answer in answers] == [HIDDEN, BODY]
    assert served.app.heads == [("POST", "/first")] * 2
