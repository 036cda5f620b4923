"""A fake billing service on a real socket, for the tests of programs that record usage."""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from billing_client._client import BillingSystemClient
from billing_client._records import UsageRecord
from billing_client.contract import wire
from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.wire import Customer, NewCustomer
from billing_client.testing._endpoints import MAX_BODY_BYTES, Endpoints, Request, Response, problem_response
from billing_client.testing._faults import Fault, Rule
from billing_client.testing._ledger import FakeLedger

STOP_SECONDS = 0.1  # for calls under way when it stops
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: close() sends RST
_BEFORE = {Fault.DROP_BEFORE, Fault.RESET_BEFORE}
_AFTER_COMMIT = {Fault.DROP_AFTER_COMMIT, Fault.RESET_AFTER_COMMIT}


@dataclass
class Call:
    """A request that the fake service received.

    Attributes:
        method: The HTTP method.
        path: The path, still percent-encoded, without the query.
        query: The query string, without the question mark.
        idempotency_key: The `Idempotency-Key` header, if there was one.
        body: The body.
        fault: The fault that struck it, if one did.
        status: The status of the response; None if no complete response was sent, or not yet.
    """

    method: str
    path: str
    query: str
    idempotency_key: str | None
    body: bytes
    fault: Fault | None = None
    status: int | None = None

    def json(self) -> Any:
        """Decode the body."""
        return msgspec.json.decode(self.body, type=Any)


class FakeBillingServer:
    """A billing service that keeps its data in memory and fails on command.

    It serves from a thread with an event loop of its own, so tests with and without asyncio can use it. As a context
    manager it serves at `url` until the block ends, and then forgets everything. It has no statements, CSV, HTML,
    metrics, rate limits or API key scopes.

    Args:
        currency: The ISO 4217 code that summaries carry.
        api_keys: The API keys that it accepts. If there are none, calls need no key.
    """

    def __init__(self, *, currency: str = "USD", api_keys: Sequence[str] = ()) -> None:
        self._api_keys = tuple(api_keys)
        self._ledger = FakeLedger()
        self._endpoints = Endpoints(self._ledger, currency, self._api_keys)
        self._rules: list[Rule] = []
        self._calls: list[Call] = []
        self._lock = threading.Lock()  # of all the above, between the test and the server's thread

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._port: int = self._listener.getsockname()[1]
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name=f"fake billing service on {self._port}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """Its address, without a slash at the end. Only inside the `with` block."""
        return f"http://127.0.0.1:{self._port}"

    def client(self, **settings: Any) -> BillingSystemClient:
        """A client of this service.

        Args:
            settings: Arguments of BillingSystemClient. `base_url`, and the first of the `api_keys`, are filled in.
        """
        api_key = self._api_keys[0] if self._api_keys else "none"  # never one from the environment
        return BillingSystemClient(**{"base_url": self.url, "api_key": api_key} | settings)

    def misbehave(
        self, fault: Fault, *, times: int | None = 1, every: int = 1, on: str = "*", seconds: float = 0.0
    ) -> None:
        """From now on, let calls fail. If several faults match a call, the one commanded first strikes.

        Args:
            fault: What happens to the calls.
            times: How many calls it strikes; None means until `behave`.
            every: It strikes every so many-th of the calls that match; at least 1.
            on: Which calls: a path such as "/usage/batch", or a method and a path such as "POST /usage", with the
                wildcards of `fnmatch`.
            seconds: How long a delay takes, or what `Retry-After` asks for; at least 0.

        Raises:
            ValueError: An argument is out of its bounds, or a delay has no `seconds`.
        """
        rule = Rule(fault, times, every, on, seconds)
        with self._lock:
            self._rules.append(rule)

    def behave(self) -> None:
        """End all faults commanded so far."""
        with self._lock:
            self._rules.clear()

    def add_customer(self, customer_id: str, name: str = "A customer") -> Customer:
        """Create a customer, as a call would. Raises ValueError if the id is taken."""
        with self._lock:
            try:
                return self._ledger.add_customer(NewCustomer(name=name, id=customer_id), None)[0]
            except ProblemError as error:
                raise ValueError(error.details.detail) from error

    def customer(self, customer_id: str) -> Customer:
        """A stored customer. Raises KeyError if there is none."""
        with self._lock:
            try:
                return self._ledger.customer(customer_id)
            except ProblemError as error:
                raise KeyError(customer_id) from error

    @property
    def records(self) -> list[UsageRecord]:
        """All records, in the order in which they were recorded."""
        with self._lock:
            return [_as_read(record) for record in self._ledger.all_records()]

    @property
    def calls(self) -> list[Call]:
        """The requests received so far, in order. Every attempt of a client's call is one."""
        with self._lock:
            return list(self._calls)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve_until_stopped())

    async def _serve_until_stopped(self) -> None:
        server = web.Server(self._meet, auto_decompress=False, access_log=None, max_line_size=65_536)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        await web.SockSite(runner, self._listener).start()
        await self._stop.wait()
        await runner.cleanup()

    async def _meet(self, received: web.BaseRequest) -> web.StreamResponse:
        path, _, query = received.raw_path.partition("?")
        try:
            body = await received.content.read()
        except ConnectionError:  # the caller went away
            return _HungUp(is_reset=False)
        key = received.headers.get("Idempotency-Key")
        call = Call(received.method, path, query, key, body)
        kept = body if len(body) <= MAX_BODY_BYTES else None
        request = Request(call.method, path, query.encode(), received.headers, kept)
        with self._lock:
            self._calls.append(call)
            rule = next((rule for rule in self._rules if rule.meets(call.method, path)), None)
            call.fault = rule.fault if rule else None
            response = self._refusal(rule, call) if rule else None
            if response is None and call.fault not in _BEFORE:
                response = self._endpoints.respond(request)
        if rule and rule.fault is Fault.DELAY:
            await asyncio.sleep(rule.seconds)
        if response is None or call.fault in _AFTER_COMMIT:
            return _HungUp(is_reset=call.fault in (Fault.RESET_BEFORE, Fault.RESET_AFTER_COMMIT))
        if call.fault is Fault.TRUNCATE:
            return _Truncated(response)
        call.status = response.status
        return web.Response(status=response.status, body=response.body, headers=response.headers)

    def _refusal(self, rule: Rule, call: Call) -> Response | None:
        """The response that this fault sends instead of doing the work, if it does so."""
        after = str(math.ceil(rule.seconds))
        match rule.fault:
            case Fault.RATE_LIMITED:
                headers = {
                    "Retry-After": after,
                    "RateLimit-Policy": '"fake";q=1',
                    "RateLimit": f'"fake";r=0;t={after}',
                }
                return problem_response(problem("rate_limited", "Told to refuse."), headers)
            case Fault.UNAVAILABLE:
                return problem_response(problem("unavailable", "Told to refuse."), {"Retry-After": after})
            case Fault.REDIRECT:
                return Response(302, b"", {"Location": f"{self.url}/elsewhere{call.path}"})
        return None


def _as_read(record: wire.UsageRecord[str]) -> UsageRecord:
    """A record as the client gives it."""
    return msgspec.convert(msgspec.to_builtins(record, builtin_types=(datetime,)), UsageRecord, strict=False)


class _HungUp(web.StreamResponse):
    """The end of the connection instead of a response."""

    def __init__(self, is_reset: bool) -> None:
        super().__init__()
        self._is_reset = is_reset

    async def prepare(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is not None and self._is_reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        elif transport is not None:
            transport.close()
        raise ConnectionResetError("told to hang up")  # which makes aiohttp leave the connection alone


class _Truncated(web.StreamResponse):
    """The head of a response and half of its body, then the end of the connection."""

    def __init__(self, response: Response) -> None:
        super().__init__(status=response.status, headers=response.headers)
        self.content_length = len(response.body) + 1
        self._part = response.body[: len(response.body) // 2]

    async def prepare(self, request: web.BaseRequest) -> None:
        await super().prepare(request)
        await self.write(self._part)
        if request.transport is not None:
            request.transport.close()
        raise ConnectionResetError("told to hang up")
