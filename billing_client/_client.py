"""The client: a method for each endpoint of the service."""

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal
from uuid import uuid4

import msgspec

from billing_client import _batches
from billing_client._batches import UsageOutcome
from billing_client._calls import ApiCall
from billing_client._config import load_config
from billing_client._encoding import check_usage, checked_key, encode, encode_body, path_segment
from billing_client._errors import DuplicateRecordError
from billing_client._reads import CUSTOMER, LedgerReads
from billing_client._records import DecimalLike, Usage, UsageRecord, VoidedUsage
from billing_client._responses import Response, decode_record, decode_stored, require_about, unexpected
from billing_client._transport import Transport
from billing_client._version import __version__
from billing_client.contract.identity import new_customer_id
from billing_client.contract.wire import Customer, CustomerChange, NewCustomer, NewVoid
from billing_client.spooling.events import RecorderEvent
from billing_client.spooling.options import RecorderOptions, seconds_kept
from billing_client.spooling.recorder import UsageRecorder

_RECORD = msgspec.json.Decoder(UsageRecord)
_VOIDED = msgspec.json.Decoder(VoidedUsage)


class BillingSystemClient(LedgerReads):
    """Records usage with the billing service, each use once, over a network that fails.

    An async context manager, for one event loop. A call that fails in a way that may pass is retried under the same
    `Idempotency-Key` until its deadline. A call may be cancelled: repeat it with the same `idempotency_key` or event
    id. All attempts of a call are in one trace, if the application uses OpenTelemetry.

    Args:
        base_url: The address of the service, such as `https://billing.example.com`, without user, query and fragment.
            By default the environment variable `BILLING_BASE_URL`.
        api_key: The API key, which is sent as `Authorization: Bearer …`. By default `BILLING_API_KEY`; without either,
            no key is sent.
        timeout: The deadline of a call in seconds, over all its attempts and the waits between them; above 0.
        max_attempts: How many requests a call makes at most; above 0. 1 means no retries.
        max_connections: How many connections are open at a time at most; above 0. Further calls wait for one, and the
            deadline covers that wait.
        ssl_context: For `https`: how certificates are checked, or a certificate of the client's own. By default the
            certificate authorities that Python trusts.
        trace_headers: Called once for each call; gives headers to send with it, for tracers other than OpenTelemetry.

    Raises:
        ConfigurationError: An argument or environment variable is missing or out of its bounds.
        BillingError: Every method can raise it. Its `outcome` says whether the call may have done its work.
        RuntimeError: A method is called after `close`, or in another event loop.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_attempts: int = 20,
        max_connections: int = 100,
        ssl_context: ssl.SSLContext | None = None,
        trace_headers: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        config = load_config(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_attempts=max_attempts,
            max_connections=max_connections,
        )
        self._base_url = config.base_url
        super().__init__(Transport(config, ssl_context, f"billing-client/{__version__}", trace_headers))

    def __repr__(self) -> str:
        return f"BillingSystemClient(base_url={self._base_url!r})"

    async def __aenter__(self) -> "BillingSystemClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. The client cannot be used again. The end of the `async with` block calls it."""
        await self._transport.close()

    async def record_usage(
        self,
        *,
        customer_id: str,
        service: str,
        units_consumed: DecimalLike,
        price_per_unit: DecimalLike,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        dimensions: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        on_duplicate: Literal["raise", "return"] = "raise",
    ) -> UsageRecord:
        """Record one use. When this returns, the record is stored.

        Args:
            customer_id: Who used it: the id of a customer of the service, 1 to 128 characters.
            service: What was used, 1 to 200 characters.
            units_consumed: How much: a decimal with at most 38 digits, 18 of them after the point. Below 0 it is a
                credit, which needs an API key with the scope `usage:credit`.
            price_per_unit: The price of one unit, at least 0, within the same bounds.
            event_id: Your name for the use, 1 to 128 characters. Without one, usage with equal customer, service,
                units and price is the same usage.
            occurred_at: When it was used, with a time zone; at most 5 minutes ahead of the service's clock. By default
                the time at which the service receives it.
            dimensions: What else you bill or report by, such as `{"model": "large", "region": "eu"}`: at most 16 pairs,
                names of 1 to 64 characters, values of 1 to 200. Beside an event id they are compared like other data;
                without one they are part of what makes usage the same.
            idempotency_key: The name of the call, 1 to 255 visible ASCII characters. Give the same one to repeat a
                call whose outcome is unknown. By default a new one.
            on_duplicate: "raise" raises DuplicateRecordError if another call recorded the same usage before. "return"
                returns the record that it stored.

        Returns:
            The stored record. Its `outcome` says whether this call recorded it.

        Raises:
            DuplicateRecordError: Another call recorded the same usage, and `on_duplicate` is "raise".
            EventIdConflictError: The event id is recorded with other data.
            CustomerNotFoundError: The service does not know the customer.
            ValidationError: The input is not valid.
        """
        usage = Usage(
            customer_id=customer_id,
            service=service,
            units_consumed=units_consumed,
            price_per_unit=price_per_unit,
            event_id=event_id,
            occurred_at=occurred_at,
            dimensions=dimensions,
        )
        sent, request_id = check_usage(usage)
        call = ApiCall("POST", "/usage", encode(sent), checked_key(idempotency_key), request_id)
        try:
            response = await self._transport.send(call)
        except DuplicateRecordError as error:
            if on_duplicate == "raise":
                raise
            return error.existing
        return _with_outcome(decode_stored(_RECORD, response, call, sent), response)

    def record_usages(
        self,
        usages: Iterable[Usage] | AsyncIterable[Usage],
        *,
        batch_size: int = 1_000,
        concurrency: int = 1,
        dry_run: bool = False,
        repeatable: bool = False,
    ) -> AsyncGenerator[UsageOutcome, None]:
        """Record any number of uses in batches.

        A use that is refused is an outcome with its error. An error that concerns a whole batch is raised; whether
        later batches were recorded is then unknown.

        Args:
            usages: The uses. Only those of `concurrency` batches are held in memory at a time.
            batch_size: How many uses one request holds at most, 1 to 10,000; about 4 MiB end a batch earlier.
            concurrency: How many batches are sent at a time, at least 1. If more than 1, and two batches hold the same
                usage, either may be the first.
            dry_run: Write nothing. A use that would be `recorded` is `recordable`.
            repeatable: Make the Idempotency-Key of each batch from what the batch holds. The same batches again, by
                another process after a crash for example, are then a retry, and count as `replayed` instead of
                `duplicate`.

        Yields:
            What became of each use, in order.

        Raises:
            ValueError: `batch_size` or `concurrency` is out of its bounds.
        """
        return _batches.record_usages(self._transport, usages, batch_size, concurrency, dry_run, repeatable)

    def recorder(
        self,
        *,
        spool: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        on_event: Callable[[RecorderEvent], None] | None = None,
        on_full: Literal["wait", "raise"] = "wait",
        full_timeout: float = 30.0,
        max_records: int = 1_000_000,
        max_bytes: int = 256 * 1024 * 1024,
        batch_size: int = 1_000,
        close_timeout: float = 10.0,
        linger: float = 0.1,
        unknown_customer: Literal["dead", "wait", "create"] = "dead",
        defer_timeout: float = 86_400.0,
        keep_delivered: timedelta | str | None = None,
    ) -> UsageRecorder:
        """A recorder, for an `async with` block, which must lie within that of the client.

        Its `record()` returns when the use is safe on disk. It is delivered in the background, however long the
        service is away.

        Args:
            spool: The file that holds the uses until they are delivered, on a local disk; it belongs to one recorder
                at a time. Without it and `spool_dir` they wait in memory, and end with the process.
            spool_dir: A folder, on a local disk, in which each process has a file of its own, for applications of many
                processes; it is made if it is missing. The recorder also delivers the files of processes that are dead,
                and removes them once they are empty.
            on_event: Called in the event loop for each attempt and each record that is delivered, a duplicate, or
                dead. What it raises is logged.
            on_full: What `record()` does when the spool is full: "wait" for room, or "raise" SpoolFullError.
            full_timeout: For how many seconds it waits for room before it raises SpoolFullError; at least 0. A server
                that stops waits for its requests, and these for room: so do not let them wait without end.
            max_records: How many records the spool holds at most, dead letters included; at least 1.
            max_bytes: How many bytes of JSON they have at most, dead letters included; at least 4,096.
            batch_size: How many records one request holds at most, 1 to 10,000.
            close_timeout: For how many seconds the end of the block delivers; at least 0.
            linger: For how many seconds a batch that is not full waits for more, from its first use; at least 0. A
                flush does not wait for it.
            unknown_customer: What becomes of usage whose customer the service does not know: a "dead" letter; "wait"
                until there is such a customer; or "create" the customer, with its id for a name, which needs the scope
                `customers:write`, and wait where that fails.
            defer_timeout: For how many seconds after it was recorded usage waits whose customer is unknown, or that
                occurs in the future by the service's clock; then it is a dead letter. A recorder that was opened later
                gives it as long again. At least 0.
            keep_delivered: How long the spool keeps what was delivered, so that `resend` can bring it back to a service
                that lost it: a timedelta, or text such as "90m", "24h" or "7d"; at most 31 days. They are at most
                `max_records` and `max_bytes` besides those to be delivered, and the oldest go first. None keeps none.

        Raises:
            ConfigurationError: An argument is out of its bounds.
            SpoolError: The file cannot be used. Entering the block raises it.
        """
        options = RecorderOptions(
            spool=None if spool is None else Path(spool),
            spool_dir=None if spool_dir is None else Path(spool_dir),
            on_event=on_event,
            on_full=on_full,
            full_timeout=full_timeout,
            max_records=max_records,
            max_bytes=max_bytes,
            batch_size=batch_size,
            close_timeout=close_timeout,
            linger=linger,
            unknown_customer=unknown_customer,
            defer_timeout=defer_timeout,
            keep_delivered=seconds_kept(keep_delivered),
        )
        return UsageRecorder(self._transport, options)

    async def void_usage(
        self, *, customer_id: str, request_id: str, reason: str, voided_for: str | None = None
    ) -> VoidedUsage:
        """Void a record: totals leave it out for good, and the record stays.

        To void it again changes nothing and returns the first void.

        Args:
            customer_id: Whose usage it is.
            request_id: The request id of the record.
            reason: Why it no longer counts, 1 to 1,000 characters.
            voided_for: On whose behalf, 1 to 200 characters. Which API key voids it is stored in any case.

        Raises:
            UsageNotFoundError: The customer has no such record.
            CustomerNotFoundError: The service does not know the customer.
            ValidationError: An argument is not valid.
        """
        path = f"/customers/{path_segment(customer_id)}/usage/{path_segment(request_id)}/void"
        body = encode_body(NewVoid, reason=reason, voided_for=voided_for)
        call = ApiCall("POST", path, body, request_id=request_id)
        response = await self._transport.send(call)
        voided = decode_record(_VOIDED, response, call)
        require_about(voided, call, customer_id=customer_id)
        if voided.voided_at is None:
            raise unexpected("the response is about a record that is not voided", response, call)
        return voided

    async def create_customer(self, *, name: str, customer_id: str | None = None) -> Customer:
        """Create a customer.

        Args:
            name: The name, 1 to 200 characters.
            customer_id: The id, 1 to 128 characters. By default a new one.

        Raises:
            CustomerExistsError: The id is taken.
            ValidationError: An argument is not valid.
        """
        id_ = new_customer_id() if customer_id is None else customer_id
        call = ApiCall("POST", "/customers", encode_body(NewCustomer, name=name, id=id_), str(uuid4()))
        return await self._send(call, CUSTOMER, id=id_)

    async def update_customer(self, *, customer_id: str, name: str) -> Customer:
        """Rename a customer.

        Args:
            customer_id: Which customer.
            name: The new name, 1 to 200 characters.

        Raises:
            CustomerNotFoundError: The service does not know the customer.
            ValidationError: The name is not valid.
        """
        body = encode_body(CustomerChange, name=name)
        call = ApiCall("PATCH", f"/customers/{path_segment(customer_id)}", body)
        return await self._send(call, CUSTOMER, id=customer_id)


def _with_outcome(record: UsageRecord, response: Response) -> UsageRecord:
    replayed = response.headers.get("Idempotent-Replayed") == "true"
    return msgspec.structs.replace(record, outcome="replayed" if replayed else "recorded")
