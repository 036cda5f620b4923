"""A web application that sells answers of language models, and bills each token once, whatever happens.

    pip install ".[examples]"
    BILLING_BASE_URL=http://127.0.0.1:3000 uvicorn --app-dir examples --workers 3 fastapi_llm:app
    curl -N http://127.0.0.1:8000/chat -H 'X-Customer: acme' -H 'Content-Type: application/json' \
        -d '{"model": "gpt-4o", "prompt": "How are you?"}'

The models are made up, but their `usage` has the shape of OpenAI's and Anthropic's. Hang up in the middle, kill workers
or the billing service: each call whose last line came is billed, to the last token. Spools are in SPOOL_DIR ("spool").
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from billing_client import BillingSystemClient
from billing_client.metering import TokenPrices, meter, token_usages

client = BillingSystemClient()
recorder = client.recorder(spool_dir=os.environ.get("SPOOL_DIR", "spool"), unknown_customer="wait")
calls: set[asyncio.Task[None]] = set()


class Question(BaseModel):
    """What a customer asks."""

    model: str
    prompt: str


async def gpt(prompt: str) -> AsyncIterator[dict[str, Any]]:
    """A stream as OpenAI sends it: the usage comes last, and cached tokens are part of the prompt."""
    words = prompt.split()
    for word in words:
        await asyncio.sleep(0.001)
        yield {"text": word[::-1] + " "}
    cached = {"cached_tokens": len(words) // 2}
    usage = {"prompt_tokens": len(words), "completion_tokens": len(words), "prompt_tokens_details": cached}
    yield {"text": "", "usage": usage}


async def claude(prompt: str) -> AsyncIterator[dict[str, Any]]:
    """A stream as Anthropic sends it, put together: cached tokens are beside the prompt."""
    words = prompt.split()
    for word in words:
        await asyncio.sleep(0.001)
        yield {"text": word.upper() + " "}
    cached = len(words) // 2
    usage = {"input_tokens": len(words) - cached, "cache_read_input_tokens": cached, "output_tokens": len(words)}
    yield {"text": "", "usage": usage}


MODELS: dict[str, tuple[Callable[[str], AsyncIterator[dict[str, Any]]], TokenPrices]] = {
    "gpt-4o": (gpt, TokenPrices(input="0.0000025", cached_input="0.00000125", output="0.00001")),
    "claude-sonnet-4-5": (claude, TokenPrices(input="0.000003", cached_input="0.0000003", output="0.000015")),
}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Open the recorder in each worker. At the end, wait for the calls whose clients have gone."""
    async with client, recorder:
        yield
        if calls:
            await asyncio.wait(calls)


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(question: Question, x_customer: Annotated[str, Header()]) -> StreamingResponse:
    """Answer as a stream. Its last line is the id of the call, once its tokens are safe on disk."""
    answer: asyncio.Queue[str | None] = asyncio.Queue()
    call_id = str(uuid4())
    # a task of its own, which reads the model to its end though the client hangs up: the provider bills all of it
    call = asyncio.create_task(ask(question, x_customer, call_id, answer))
    calls.add(call)
    call.add_done_callback(calls.discard)
    return StreamingResponse(pieces(answer), media_type="text/plain", headers={"X-Call-Id": call_id})


async def ask(question: Question, customer_id: str, call_id: str, answer: "asyncio.Queue[str | None]") -> None:
    """Put the answer of the model into the queue, and record its tokens."""
    model, prices = MODELS[question.model]
    try:
        async with meter(recorder) as metered:
            async for chunk in model(question.prompt):
                answer.put_nowait(chunk["text"])
                if "usage" in chunk:
                    metered.record(
                        *token_usages(
                            chunk["usage"],
                            customer_id=customer_id,
                            event_id=call_id,
                            prices=prices,
                            dimensions={"model": question.model},
                        )
                    )
        answer.put_nowait(f"\n{call_id}\n")  # the block has ended: its usage is on disk
    finally:
        answer.put_nowait(None)


async def pieces(answer: "asyncio.Queue[str | None]") -> AsyncIterator[str]:
    """What comes out of the queue, until it ends."""
    while (piece := await answer.get()) is not None:
        yield piece
