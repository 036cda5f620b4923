"""Admission control: limits the requests in progress, and the bytes of their bodies.

Under overload it is better to refuse some requests than to make all of them wait.
"""

from collections import Counter

from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem

SMALL_BODY_BYTES = 64 * 1024  # bodies up to this size are always accepted


class Admission:
    """Limits the requests in progress in this process. Each is counted during a `with` block.

    During a `with while_receiving` block a request waits for the rest of its body and is not counted, so that slow
    senders do not keep others out. Both raise ProblemError (503) at the limit.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self.admitted = 0
        self.while_receiving = _WhileReceiving(self)

    def __enter__(self) -> None:
        self.require_room(self.admitted + 1)
        self.admitted += 1

    def __exit__(self, *_: object) -> None:
        self.admitted -= 1

    def require_room(self, wanted: int) -> None:
        """Raise ProblemError (503) if this many requests exceed the limit."""
        if wanted > self._max_requests:
            detail = "The service is overloaded. Try again: a retry with the same Idempotency-Key is safe."
            raise ProblemError(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})


class BodyBudget:
    """Limits the total size of the bodies that this process holds, from the first byte until the request is answered.

    Bodies of up to SMALL_BODY_BYTES are always accepted: `BILLING_MAX_REQUESTS` limits their number. A caller may hold
    at most half of the budget, so that a slow sender does not keep others out. Only a single body may be larger.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held = 0
        self._held_by: Counter[str] = Counter()

    def charge(self, caller: str, size: int, body_size: int) -> None:
        """Charge more bytes of a body. They must be released later, even if this raises.

        Args:
            caller: Identifies the caller: its key id or address.
            size: How many bytes to add.
            body_size: How many bytes of this body have been charged in total, `size` included.

        Raises:
            ProblemError: 503; the budget, or the caller's share of it, is used up.
        """
        self.held += size
        self._held_by[caller] += size
        is_over = self.held > self._max_bytes or self._held_by[caller] > max(self._max_bytes // 2, body_size)
        if is_over and body_size > SMALL_BODY_BYTES:
            detail = (
                "The service is receiving too many bytes of request bodies. Try again, with smaller batches or fewer "
                "at a time: a retry with the same Idempotency-Key is safe."
            )
            raise ProblemError(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})

    def release(self, caller: str, size: int) -> None:
        """Release charged bytes."""
        self.held -= size
        self._held_by[caller] -= size
        if not self._held_by[caller]:
            del self._held_by[caller]


class _WhileReceiving:
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.admitted -= 1

    def __exit__(self, failure: object, *_: object) -> None:
        self._admission.admitted += 1
        if failure is None:
            self._admission.require_room(self._admission.admitted)
