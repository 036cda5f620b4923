"""Issues statements: numbered for each customer, signed, stored as they are sent, and never changed."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeAlias

import asyncpg
import msgspec

from billing_client.contract.periods import Month
from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.statements.digests import PIECE
from billing_client.contract.statements.structs import IssuedStatement, Statement
from billing_service.database.pool import Connection, Database
from billing_service.database.replication import wait_for_standbys
from billing_service.ledger.customers import require_customer
from billing_service.ledger.statements.changes import changes_since_issue
from billing_service.ledger.statements.issued import (
    Issued,
    add_issued,
    last_number,
    latest_issued,
    overlapping_issue,
)
from billing_service.ledger.statements.months import MonthContent, encode_statement, provisional_statement, read_month
from billing_service.ledger.statements.pieces import QUERIES
from billing_service.ledger.statements.refreshing import SLICE_RECORDS, Progress, refresh, refresh_slices
from billing_service.telemetry import audit

Sign: TypeAlias = Callable[[Statement[str]], Statement[str]]
TRIES = 20  # another program may issue a statement of the customer, or record usage of the month, at the same time


class IssueOrder(NamedTuple):
    """A statement to issue.

    Attributes:
        month: The customer and the month.
        currency: The ISO 4217 code of the currency.
        issued_by: The name of the caller's API key; None without one.
        now: The time.
        sign: Adds the signature, where there is a key.
    """

    month: Month
    currency: str
    issued_by: str | None
    now: datetime
    sign: Sign


class IssueResult(NamedTuple):
    """The statement that was issued last, and whether that was now. It is None while pieces are prepared."""

    issued: Issued | None
    is_new: bool
    progress: Progress


async def issue(database: Database, order: IssueOrder, until: float) -> IssueResult:
    """Issue a statement, unless the one that was issued last still says what is so.

    Args:
        database: Where it is stored.
        order: Which statement.
        until: When to stop preparing pieces, on the event loop's clock. What was prepared stays.

    Raises:
        ProblemError: 404; there is no such customer. 409; the month is not over, its records were changed, or
            a part of it was issued in another time zone.
        DatabaseUnavailableError: The database is away. Whether the statement was issued is unknown; ask again.
    """
    month = order.month
    require_over(order)
    async with database.read_connection() as connection:
        await require_customer(connection, month.customer_id)
    for _ in range(TRIES):
        progress = await refresh_slices(database, *month.range, until)
        if not progress.is_done:
            return IssueResult(None, False, progress)
        async with database.connection() as connection:
            issued = await _issue_prepared(connection, order)
        if issued is not None:
            statement, is_new = issued
            if is_new:
                listed = statement.listed
                audit.statement_issued(
                    listed.customer_id, listed.number, listed.month, listed.timezone, order.issued_by
                )
            return IssueResult(statement, is_new, progress)
        await asyncio.sleep(0)
    return IssueResult(None, False, progress)


def require_over(order: IssueOrder) -> None:
    """Raise ProblemError (409) if the month is not over."""
    month = order.month
    if month.end > order.now:
        detail = f"{month.first:%Y-%m} in {month.timezone} ends at {month.end.isoformat()}; issue its statement then."
        raise ProblemError(problem("month_not_over", detail))


async def _issue_prepared(connection: Connection, order: IssueOrder) -> tuple[Issued, bool] | None:
    """Issue a statement whose pieces are up to date. None if something came in between."""
    try:
        async with connection.transaction(isolation="repeatable_read"):
            month = order.month
            if not (await refresh(connection, *month.range, SLICE_RECORDS)).is_done:
                return None
            await _require_unbilled(connection, month)
            content = await read_month(connection, month)
            latest = await latest_issued(connection, month)
            if latest is not None and latest.listed.digest == content.digest.hex():
                await wait_for_standbys(connection)
                return latest, False
            issued = await _new_issue(connection, order, content, latest)
            if not await add_issued(connection, issued):
                return None
            return issued, True
    except asyncpg.SerializationError:
        return None


async def _require_unbilled(connection: Connection, month: Month) -> None:
    """Raise ProblemError (409) if a part of the month was issued in another time zone: it would be billed twice."""
    other = await overlapping_issue(connection, month)
    if other is not None:
        this, issued = (each.first.isoformat()[:7] for each in (month, other))
        detail = (
            f"{issued} was issued in {other.timezone}, and has a part of {this} in {month.timezone}: "
            f"its usage would be billed twice. Issue in {other.timezone}."
        )
        raise ProblemError(problem("billed_in_other_timezone", detail))


async def _new_issue(connection: Connection, order: IssueOrder, content: MonthContent, latest: Issued | None) -> Issued:
    month = order.month
    runs = await _runs(connection, content)
    previous = None if latest is None else latest.reference
    statement = msgspec.structs.replace(
        await provisional_statement(content, order.currency, order.now, previous),
        status="issued",
        number=await last_number(connection, month.customer_id) + 1,
        issued_at=order.now,
        changes=None if latest is None else await changes_since_issue(connection, content, latest, order.currency),
    )
    signed = await asyncio.to_thread(order.sign, statement)
    listed = IssuedStatement(
        customer_id=month.customer_id,
        number=statement.number or 0,
        month=statement.month,
        timezone=month.timezone,
        digest=statement.digest,
        issued_at=order.now,
        issued_by=order.issued_by,
        signature=signed.signature,
        total=statement.total,
    )
    return Issued(listed, month.first, await encode_statement(signed), [*runs], [*runs.values()])


async def _runs(connection: Connection, content: MonthContent) -> dict[datetime, int]:
    """The newest run of each piece, also of those of which the month has a part only.

    Raises ProblemError (409) if a piece is not stored as it is now: it cannot be, where records were changed.
    """
    month = content.month
    if not content.pieces:
        return {}
    first, last = content.pieces[0].bucket, content.pieces[-1].bucket + PIECE
    rows = await connection.fetch(QUERIES["read_pieces"], month.customer_id, first, last)
    newest = {row["bucket"]: row["run"] for row in rows if row["piece_records"] == row["records"]}
    if any(newest.get(piece.bucket) is None for piece in content.pieces):
        detail = (
            "Records of this month are not as they were when they were summed up and hashed, or were deleted. "
            "Have the operator run: billing-service verify"
        )
        raise ProblemError(problem("records_changed", detail))
    return newest
