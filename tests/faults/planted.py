"""Bugs, planted to see that the check catches them: the real service and the real client, each wrong in one point."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.types import ASGIApp

from billing_client import BillingSystemClient
from billing_client._calls import ApiCall
from billing_client._config import load_config
from billing_client._transport import Transport
from billing_client.contract.outcomes import Decision, Submission
from billing_service.app import create_app
from billing_service.ledger.group_commit import GroupCommit
from billing_service.settings import load_settings

COMMIT_SECONDS = 0.5


class HastyGroupCommit(GroupCommit):
    """Acknowledges before the commit."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._commits: set[asyncio.Task[None]] = set()

    async def record(self, submission: Submission) -> Decision:
        return (await self.record_batch([submission]))[0]

    async def record_batch(
        self, submissions: Sequence[Submission], is_sent: asyncio.Event | None = None
    ) -> list[Decision]:
        commit = asyncio.create_task(self._commit(submissions))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        return [Decision("recorded", submission.record) for submission in submissions]

    async def _commit(self, submissions: Sequence[Submission]) -> None:
        await asyncio.sleep(COMMIT_SECONDS)
        await super().record_batch(submissions)


def hasty_service() -> ASGIApp:
    """The service with a group commit that acknowledges before the commit."""
    return create_app(load_settings(), make_group_commit=HastyGroupCommit)


class _ForgetfulTransport(Transport):
    """Gives each attempt of a call a name of its own."""

    async def _attempt(self, session: Any, call: ApiCall, read: Any) -> Any:
        call.headers["Idempotency-Key"] = call.idempotency_key = str(uuid4())
        return await super()._attempt(session, call, read)


class ForgetfulClient(BillingSystemClient):
    """Sends a new Idempotency-Key with each retry."""

    def __init__(self, *, base_url: str, timeout: float) -> None:
        super().__init__(base_url=base_url, timeout=timeout)
        config = load_config(base_url=base_url, api_key=None, timeout=timeout, max_attempts=20, max_connections=100)
        self._transport = _ForgetfulTransport(config, None, "forgetful")


if __name__ == "__main__":
    settings = load_settings()
    uvicorn.run(hasty_service, factory=True, host=settings.host, port=settings.port, log_level="warning", ws="none")
