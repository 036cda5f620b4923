"""The service with its database left out: what HTTP, decoding, hashing and encoding cost by themselves.

`python -m benchmarks.peers.ceiling` serves it just as `billing-service serve` does.
"""

import asyncio
from collections.abc import Sequence

import uvicorn

from billing_client.contract.outcomes import Decision, Submission
from billing_service.app import create_app
from billing_service.commands.serve import server_config
from billing_service.ledger.group_commit import GroupCommit
from billing_service.settings import load_settings
from billing_service.telemetry.logs import start_logs


class NoCommit(GroupCommit):
    """Says that everything is recorded, and records nothing."""

    async def record(self, submission: Submission) -> Decision:
        return Decision("recorded", submission.record)

    async def record_batch(
        self, submissions: Sequence[Submission], is_sent: asyncio.Event | None = None
    ) -> list[Decision]:
        return [Decision("recorded", submission.record) for submission in submissions]


if __name__ == "__main__":
    settings = load_settings()
    config = server_config(create_app(settings, start_logs(settings), make_group_commit=NoCommit), settings)
    config.host, config.port = settings.host, settings.port
    uvicorn.Server(config).run()
