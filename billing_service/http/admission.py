"""Bounds how many requests are worked on at once. Refusing one more costs less than letting all of them wait."""

from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem


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


class _WhileReceiving:
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.admitted -= 1

    def __exit__(self, failure: object, *_: object) -> None:
        self._admission.admitted += 1
        if failure is None:
            self._admission.require_room(self._admission.admitted)
