"""The application of `fastapi_app` without asyncio: Flask, in processes of many threads, and the blocking client."""

import os
import time
from collections.abc import Iterator

from flask import Flask, Response

from billing_client import SpoolError
from billing_client.blocking import BillingClient
from tests.faults.applications.names import note, usages_of

PIECE_SECONDS = 0.002

client = BillingClient(timeout=2)
recorder = client.recorder(spool_dir=os.environ["APP_SPOOL_DIR"])
app = Flask(__name__)


@app.post("/calls/<name>")
def call(name: str) -> tuple[dict[str, object], int]:
    """Record the usage of a call; once this is answered with 200, it is safe."""
    try:
        recorder.record_many(usages_of(name))
    except SpoolError as error:
        return {"pid": os.getpid(), "error": error.detail}, 503
    return {"pid": os.getpid()}, 200


@app.get("/streams/<name>")
def stream(name: str) -> Response:
    """Stream until the client hangs up, and record the usage then; once it is in the journal, it is safe."""

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield b"piece "
                time.sleep(PIECE_SECONDS)
        finally:
            recorder.record_many(usages_of(name))
            note(name)

    return Response(pieces())
