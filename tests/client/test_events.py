"""Streams of events from a server that means harm."""

from contextlib import aclosing

import pytest

from billing_client import UnexpectedResponseError
from tests.client.answers import client_of
from tests.client.misbehaving import Step, answer, misbehaving

RESET = b"event: reset\ndata: {}\n"


def events(body: bytes) -> Step:
    return answer(200, body, Content_Type="text/event-stream")


@pytest.mark.parametrize("id_", [b"1\rX-Other: 2", b"1\0", b"\xff", b"1 2", b"x" * 129])
async def test_an_id_that_cannot_be_sent_again_is_passed_over(id_: bytes) -> None:
    async with misbehaving(events(b"id: 7\n" + RESET + b"\nid: " + id_ + b"\n\n"), events(RESET + b"\n")) as server:
        async with client_of(server) as client, aclosing(client.events()) as stream:
            assert [(await anext(stream)).last_event_id for _ in range(2)] == ["7", "7"]
        assert [request.all("Last-Event-ID") for request in server.requests] == [[], ["7"]]


async def test_an_event_has_a_bound_however_many_lines_it_has() -> None:
    endless = b"event: totals\n" + b"data: %b\n" % (b"x" * 50_000) * 40
    async with (
        misbehaving(events(endless)) as server,
        client_of(server) as client,
        aclosing(client.events()) as stream,
    ):
        with pytest.raises(UnexpectedResponseError, match="an event of the stream is longer than"):
            await anext(stream)
