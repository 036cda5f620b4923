"""Bounds what is worked on at once: requests, and the bytes of their bodies.

Refusing one more costs less than letting all of them wait.
"""

from collections import Counter

from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem

SMALL_BODY_BYTES = 64 * 1024


class Admission:
    """Counts the requests under way in this process, each for a `with` block.

    `while_receiving` is the block in which a request waits for the rest of its body: whoever sends slowly takes
    nobody's place. Both raise ProblemError (503) where there is no room. Plain counting, since each request does it.
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
        """Raise ProblemError (503) where so many requests are too many."""
        if wanted > self._max_requests:
            detail = "The service is overloaded. Try again: a retry with the same Idempotency-Key is safe."
            raise ProblemError(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})


class BodyBudget:
    """Bounds the sum of the bodies that this process holds, from their first byte until their request is answered.

    Small bodies are always taken: `BILLING_MAX_REQUESTS` bounds their number. No caller may hold more than half of the
    budget, so that one who sends slowly does not keep out the others.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held = 0
        self._held_by: Counter[str] = Counter()

    def charge(self, caller: str, size: int, body_size: int) -> None:
        """Take `size` more bytes of a body that then has `body_size`. Raises ProblemError (503) where there is no room.

        What was charged is the caller's to release, also where this raises.
        """
        self.held += size
        self._held_by[caller] += size
        is_over = self.held > self._max_bytes or self._held_by[caller] > max(self._max_bytes // 2, body_size)
        if is_over and body_size > SMALL_BODY_BYTES:
            detail = (
                "The service holds as many bytes of request bodies as it may. Try again, with smaller batches or fewer "
                "at a time: a retry with the same Idempotency-Key is safe."
            )
            raise ProblemError(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})

    def release(self, caller: str, size: int) -> None:
        """Give back what was charged."""
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
