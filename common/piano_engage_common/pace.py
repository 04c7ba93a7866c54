"""A pace that many threads keep together: so many requests a second, never more."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
        self._interval = 1 / rate if rate else 0.0
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._next = 0.0

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
