"""One API call: what is sent at each attempt, and what is known of the attempts so far."""

from typing import Any

from msgspec import Struct, field

from billing_client._errors import BillingError, CallOutcome

# what a caller has to reckon with after all attempts, in the order in which an attempt may worsen it
OUTCOMES: tuple[CallOutcome, ...] = ("not_sent", "rejected", "unknown")


class ApiCall(Struct):
    """A call and its progress. Every attempt sends the same method, path, query, headers and body.

    Attributes:
        request_id: The request id of the usage that the call is about, if it is about one.
        is_stream: Whether the response is read as it arrives.
        deadline: When to give up, on the clock of `time.monotonic()`.
        attempts: How many requests were made.
        outcome: What the caller has to reckon with after all attempts; it only moves on in `OUTCOMES`.
        last_error: Why the last attempt that ended failed.
    """

    method: str
    path: str
    body: bytes | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    is_stream: bool = False
    deadline: float = 0.0
    attempts: int = 0
    outcome: CallOutcome = "not_sent"
    last_error: BillingError | None = None

    def facts(self, outcome: CallOutcome | None = None) -> dict[str, Any]:
        """What every error says of its call."""
        return {
            "outcome": outcome or self.outcome,
            "request_id": self.request_id,
            "attempts": self.attempts,
            "idempotency_key": self.idempotency_key,
        }
