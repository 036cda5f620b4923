"""Events of the service: reads the stream, and goes on where it was when it breaks off."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Literal, TypeAlias, cast, get_args

import msgspec
from msgspec import Struct

from billing_client._calls import ApiCall
from billing_client._encoding import query_text
from billing_client._errors import RateLimitedError, TransportError, UnavailableError, UnexpectedResponseError
from billing_client._responses import decode_line
from billing_client._transport import MAX_LINE_BYTES, Transport
from billing_client.contract.wire import ChangeEvent

EventKind: TypeAlias = Literal["totals", "refusals", "statements", "reset"]
_KINDS = get_args(EventKind)
_PASSING = (TransportError, UnavailableError, RateLimitedError)
LONGEST_WAIT_SECONDS = 5.0
_EVENT_STREAM = "text/event-stream"
_is_id = re.compile(rb"[!-~]{0,128}").fullmatch  # what may stand in a header; another id is passed over
_decoder = msgspec.json.Decoder(ChangeEvent)


class ServiceEvent(Struct, frozen=True, kw_only=True):
    """Something changed: read it again.

    Attributes:
        kind: What changed. `totals`: usage was recorded or voided. `refusals`: usage was refused. `statements`: a
            statement was issued. `reset`: anything may have changed; it comes first, and when events were missed.
        customer_ids: Of which customers, at most 1,000. Empty for `reset`, and if a refusal named no customer.
        more: Whether it changed of other customers too.
        last_event_id: Where the stream is, for `last_event_id` of a later call; None before the service said so.
    """

    kind: EventKind
    customer_ids: list[str]
    more: bool
    last_event_id: str | None


class _Broken(Struct):
    """What is known of a stream that breaks off now and then: the last id, and how often it broke without an event."""

    last_event_id: str | None
    failures: int = 0


async def watch(
    transport: Transport, customer_id: str | None, last_event_id: str | None
) -> AsyncGenerator[ServiceEvent, None]:
    """The events, from one stream after the other, until the caller stops. Raises BillingError if another would fail.

    A stream that ends, or that the service cannot give at this moment, is asked for again.
    """
    state = _Broken(last_event_id)
    query = {} if customer_id is None else {"customerId": query_text("customerId", customer_id)}
    while True:
        headers = {"Accept": _EVENT_STREAM}
        if state.last_event_id is not None:
            headers["Last-Event-ID"] = state.last_event_id
        call = ApiCall("GET", "/events", query=query, headers=headers)
        try:
            async with (
                aclosing(transport.stream(call, _EVENT_STREAM)) as lines,
                aclosing(_read(lines, call, state)) as events,
            ):
                async for event in events:
                    state.failures = 0
                    yield event
        except _PASSING:
            state.failures += 1
        longest = min(0.5 * 2**state.failures, LONGEST_WAIT_SECONDS)
        await asyncio.sleep(random.uniform(0.0, longest))  # noqa: S311 - spreads load, keeps no secret


async def _read(lines: AsyncIterator[bytes], call: ApiCall, state: _Broken) -> AsyncGenerator[ServiceEvent, None]:
    """The events of one stream (HTML Living Standard, section 9.2.6)."""
    name, data = "", b""
    async for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"id" and _is_id(value):
            state.last_event_id = value.decode("latin-1")
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data += value
            if len(data) > MAX_LINE_BYTES:
                detail = f"an event of the stream is longer than {MAX_LINE_BYTES} bytes"
                raise UnexpectedResponseError(detail, status=200, **call.facts("unknown"))
        elif not line.strip():
            if data and name in _KINDS:  # a later service may have others
                yield _event(cast("EventKind", name), data, call, state.last_event_id)
            name, data = "", b""


def _event(kind: EventKind, data: bytes, call: ApiCall, last_event_id: str | None) -> ServiceEvent:
    change = ChangeEvent(customer_ids=[]) if kind == "reset" else decode_line(_decoder, data, call)
    return ServiceEvent(kind=kind, customer_ids=change.customer_ids, more=change.more, last_event_id=last_event_id)
