"""A browser without a window: keeps cookies, and sends the forms of pages, so that a test reads like a visit."""

import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from itertools import count
from typing import NamedTuple
from urllib.parse import urlencode

from tests.calls import exchange, request_head
from tests.services import Service

FORM_TYPE = "Content-Type: application/x-www-form-urlencoded"


class Page(NamedTuple):
    """An answer, as a browser sees it."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def shown(self) -> str:
        """What a reader sees: the text without its tags, in one line."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.text)).split())

    def rows(self, label: str) -> list[list[str]]:
        """The cells of the table in the region with this label."""
        reader = _TableReader(label)
        reader.feed(self.text)
        return [[" ".join(cell.split()) for cell in row] for row in reader.rows]


_addresses = count(1)


class Visitor:
    """Somebody who visits the console of a service, from an address of their own; the service must trust this machine
    with addresses."""

    def __init__(self, service: Service) -> None:
        self.service = service
        number = next(_addresses)
        self.address = f"10.0.{number // 256}.{number % 256}"
        self.cookies: dict[str, str] = {}

    def get(self, path: str, *headers: str) -> Page:
        """Open an address."""
        return self._send(request_head("GET", path, *self._cookie(), *headers))

    def post(self, path: str, fields: Mapping[str, str], *headers: str) -> Page:
        """Send a form with exactly these fields."""
        body = urlencode(fields).encode()
        length = f"Content-Length: {len(body)}"
        return self._send(request_head("POST", path, *self._cookie(), FORM_TYPE, length, *headers) + body)

    def submit(self, page: Page, path: str, **fields: str) -> Page:
        """Send a form of a page, with its token."""
        token = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
        assert token is not None, page.shown
        return self.post(path, {"csrf": token[1]} | fields)

    def sign_in(self, key: str, goal: str = "") -> Page:
        """Sign in with a key, and return the answer to the form."""
        return self.submit(self.get("/console/sign-in"), "/console/sign-in", key=key, next=goal)

    def _cookie(self) -> list[str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return [f"X-Forwarded-For: {self.address}", *([f"Cookie: {cookies}"] if cookies else [])]

    def _send(self, request: bytes) -> Page:
        answer = exchange(self.service, request)
        for name, morsel in SimpleCookie(answer.headers.get("Set-Cookie", "")).items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value
        body = answer.body if isinstance(answer.body, bytes) else str(answer.body).encode()
        return Page(answer.status, answer.headers, body.decode())


class _TableReader(HTMLParser):
    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label
        self._is_inside = False
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if dict(attrs).get("aria-label") == self._label:
            self._is_inside = True
        if self._is_inside and tag == "tr":
            self.rows.append([])
        if self._is_inside and tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if self._is_inside and tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
