"""A pace that many threads keep together: so many requests a second, never more."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


SETTLES = 1.0
"""Seconds in which a rate that was halved is not halved again."""

SLOWEST = 64
"""The rate never falls below this part of what was set."""

CLIMB = 0.98
"""What a request that was answered well makes of the interval: 35 of them make good what was halved."""


class Pace:
    """Spreads requests evenly, so that no second sees more of them than allowed.

    Args:
        rate: requests a second; 0 is no limit.
        clock: seconds that only go forward.
        wait: rests for so many seconds; a thread may be woken early when the run ends.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """Begin with the first request at once."""
        self._interval = self._least = 1 / rate if rate else 0.0
        self._slowed = float("-inf")
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._next = 0.0

    @property
    def rate(self) -> float:
        """Requests a second at the moment; 0 is no limit."""
        return 1 / self._interval if self._interval else 0.0

    def slow(self, seconds: float = 0.0) -> None:
        """Halve the rate, for the server is busy; once a second is enough, since many requests learn of it at once.

        Args:
            seconds: nobody has a turn before these are over.
        """
        with self._lock:
            now = self._clock()
            self._next = max(self._next, now + seconds)
            if self._interval and now - self._slowed >= SETTLES:
                self._interval = min(self._interval * 2, self._least * SLOWEST)
                self._slowed = now

    def climb(self) -> None:
        """Go a little faster again, up to the rate that was set; for each request that was answered well."""
        if self._interval > self._least:
            with self._lock:
                self._interval = max(self._interval * CLIMB, self._least)

    def keep(self) -> None:
        """Wait for the turn of one request."""
        if not self._interval:
            return
        with self._lock:
            now = self._clock()
            turn = max(self._next, now)
            self._next = turn + self._interval
        if turn > now:
            self._wait(turn - now)
