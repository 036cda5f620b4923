"""How many requests are worked on at once: one more is refused, which costs less than to let all of them wait."""

from billing_service.http.errors import RETRY_AFTER_SECONDS, ProblemError, problem


class Slots:
    """The requests under way in this process, each for a `with` block.

    `lent` is the block in which a request waits for the rest of its body: whoever sends slowly takes nobody's place.
    Both raise ProblemError (503) where there is no room. Plain counting, since each request does it.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.taken = 0
        self.lent = _Lent(self)

    def __enter__(self) -> None:
        self.require_room(self.taken + 1)
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1

    def require_room(self, wanted: int) -> None:
        if wanted > self._bound:
            detail = "The service is overloaded. Try again: a retry with the same Idempotency-Key is safe."
            raise ProblemError(problem("unavailable", detail), {"Retry-After": RETRY_AFTER_SECONDS})


class _Lent:
    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def __enter__(self) -> None:
        self._slots.taken -= 1

    def __exit__(self, failure: object, *_: object) -> None:
        self._slots.taken += 1
        if failure is None:
            self._slots.require_room(self._slots.taken)
