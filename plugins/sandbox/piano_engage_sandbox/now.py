"""The sandbox's own time: it runs with the machine's, stands still, or is moved by whoever tests.

All moments of the sandbox come from here, so that a test can let trials end and links die without waiting.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Now:
    """A clock in seconds since 1970, UTC. It never goes back."""

    def __init__(self, begins: float | None = None, *, running: bool = True) -> None:
        """Begin at a moment (default: the machine's now); a clock that does not run moves only when it is moved."""
        self._base = time.time() if begins is None else begins
        self._since = time.monotonic()
        self._running = running
        self._watchers: list[Callable[[float], None]] = []

    def __call__(self) -> float:
        """Give the moment it is."""
        return self._base + (time.monotonic() - self._since if self._running else 0.0)

    @property
    def running(self) -> bool:
        """Whether it moves by itself."""
        return self._running

    def run(self, *, running: bool) -> None:
        """Let it run, or stand still."""
        self._base, self._since, self._running = self(), time.monotonic(), running

    def advance(self, seconds: float) -> float:
        """Move it on and return the new moment; raises ValueError for a step back. Watchers hear of it."""
        if seconds < 0:
            msg = f"the sandbox's clock does not go back: {seconds} seconds"
            raise ValueError(msg)
        self._base += seconds
        moment = self()
        for watcher in self._watchers:
            watcher(moment)
        return moment

    def set(self, moment: float) -> float:
        """Move it on to a moment; raises ValueError when that is past."""
        return self.advance(moment - self())

    def watch(self, watcher: Callable[[float], None]) -> None:
        """Call `watcher` with the new moment after each move by hand."""
        self._watchers.append(watcher)
