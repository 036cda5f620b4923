"""How the fake service fails, and when."""

from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase


class Fault(Enum):
    """What happens to a call instead of a proper response."""

    DROP_BEFORE = "the connection ends before anything is done"
    DROP_AFTER_COMMIT = "the work is done, then the connection ends without a response"
    RESET_BEFORE = "the connection is reset (TCP RST) before anything is done"
    RESET_AFTER_COMMIT = "the work is done, then the connection is reset (TCP RST) without a response"
    TRUNCATE = "the work is done, and the connection ends in the middle of the response body"
    DELAY = "the work is done, and the response is sent after `seconds`"
    RATE_LIMITED = "429 rate_limited with Retry-After; nothing is done"
    UNAVAILABLE = "503 unavailable with Retry-After; nothing is done"
    REDIRECT = "302 to another address; nothing is done"


@dataclass
class Rule:
    """See FakeBillingServer.misbehave."""

    fault: Fault
    times: int | None = 1
    every: int = 1
    on: str = "*"
    seconds: float = 0.0
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.every < 1 or (self.times is not None and self.times < 0) or self.seconds < 0:
            raise ValueError("every must be at least 1, times and seconds at least 0")
        if self.fault is Fault.DELAY and self.seconds == 0:
            raise ValueError("a delay takes seconds")

    def meets(self, method: str, path: str) -> bool:
        """Count a call, and say whether the fault strikes it."""
        if self.times == 0 or not fnmatchcase(path if self.on.startswith("/") else f"{method} {path}", self.on):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        if self.times is not None:
            self.times -= 1
        return True
