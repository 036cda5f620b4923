"""Passes over records that the service refuses for now, and says when they are sent again."""

import time


class PassedOver:
    """A place in the line of a spool: what is before it is passed over for a while, so that it holds up no other.

    The wait is `first_wait` seconds, and doubles each time that something is still refused.
    """

    def __init__(self, first_wait: float) -> None:
        self._first_wait = first_wait
        self._place = 0
        self._again_at = 0.0
        self._wait = first_wait

    def place(self) -> int:
        """Behind which `seq` to go on; 0, the beginning, when the wait is over."""
        if self._place and time.monotonic() >= self._again_at:
            self._place = 0
        return self._place

    def pass_over(self, place: int, longest: float) -> float:
        """Go on behind this place. Gives the seconds until what is before it is sent again, at most `longest`."""
        if self._place == 0 and place:
            self._again_at = time.monotonic() + min(self._wait, longest)
            self._wait = min(self._wait * 2, longest)
        self._place = max(self._place, place)
        return self.seconds_left() or 0.0

    def look_again(self) -> None:
        """Begin at the beginning, now."""
        self._again_at = 0.0

    def forget(self) -> None:
        """Nothing is refused for now any more: the next wait is short again."""
        self._wait = self._first_wait

    def seconds_left(self) -> float | None:
        """Until it begins at the beginning; None if it is there."""
        return max(0.0, self._again_at - time.monotonic()) if self._place else None
