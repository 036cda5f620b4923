"""A FastAPI application that records usage, for several workers with one folder of spools.

BILLING_BASE_URL is the service, APP_SPOOL_DIR the folder, APP_JOURNAL a file of what is safe, APP_OPTIONS the other
options of the recorder as JSON.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from billing_client import BillingSystemClient, SpoolError, UsageRecorder
from tests.faults.applications.names import note, usages_of

PIECE_SECONDS = 0.002


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, UsageRecorder]]:
    options = msgspec.json.decode(os.environ.get("APP_OPTIONS", "{}"))
    async with (
        BillingSystemClient(timeout=2) as client,
        client.recorder(spool_dir=os.environ["APP_SPOOL_DIR"], **options) as recorder,
    ):
        yield {"recorder": recorder}


app = FastAPI(lifespan=lifespan)


@app.post("/calls/{name}")
async def call(name: str, request: Request) -> JSONResponse:
    """Record the usage of a call; once this is answered with 200, it is safe."""
    recorder: UsageRecorder = request.state.recorder
    try:
        await recorder.record_many(usages_of(name))
    except SpoolError as error:
        return JSONResponse({"pid": os.getpid(), "error": error.detail}, 503)
    return JSONResponse({"pid": os.getpid()})


@app.get("/streams/{name}")
async def stream(name: str, request: Request) -> StreamingResponse:
    """Stream until the client hangs up, and record the usage then; once it is in the journal, it is safe."""
    recorder: UsageRecorder = request.state.recorder

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"piece "
                await asyncio.sleep(PIECE_SECONDS)
        finally:
            try:
                await recorder.record_many(usages_of(name))
            except asyncio.CancelledError as cancelled:  # it is reported once the usage is safe
                if cancelled.__cause__ is None:
                    note(name)
                raise
            note(name)

    return StreamingResponse(pieces())
