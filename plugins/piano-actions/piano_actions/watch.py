"""What fails again and again is told once, then by a count now and then, and once more when it works again.

A service that is away fails every request, and a line for each would fill a disk.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from piano_engage_common.stops import Outage, RunStopped
from piano_engage_common.transport import Transport, TryAgain
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_common.transport import Patience

T = TypeVar("T")

EVERY_SECONDS: Final = 60.0
"""How often a count is told."""
CALM_SECONDS: Final = 5.0
"""So long after the last failure something has to work to count as back: what comes and goes is away."""

_UNHEARD: Final = logging.getLogger("piano-actions.attempts")
_UNHEARD.setLevel(logging.CRITICAL)


class Watch:
    """Tells of one thing that may fail; used by many threads.

    Args:
        what: the thing, such as ``Asking Piano``.
        logger: told.
    """

    def __init__(self, what: str, logger: logging.Logger) -> None:
        """All is well."""
        self._what = what
        self._logger = logger
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last = self._told = 0.0
        self._failures = self._untold = 0

    def failed(self, problem: str, *, fault: BaseException | None = None) -> None:
        """Note a failure; *fault* is one of ours, of which the first time more is told."""
        with self._lock:
            now = self._last = time.monotonic()
            self._failures += 1
            if self._since is None:
                self._since = self._told = now
                self._logger.log(logging.ERROR if fault else logging.WARNING, "%s", problem, exc_info=fault)
                return
            self._untold += 1
            if now - self._told >= EVERY_SECONDS:
                self._logger.warning(
                    "%s still fails, %d more times in %.0f s; at last: %s",
                    self._what, self._untold, now - self._told, problem,
                )  # fmt: skip
                self._told, self._untold = now, 0

    def works(self) -> None:
        """Note that it works."""
        if self._since is None:
            return
        with self._lock:
            self._is_back(time.monotonic())

    def _is_back(self, now: float) -> None:
        if self._since is not None and now - self._last >= CALM_SECONDS:
            self._logger.warning(
                "%s is back: it failed %d time(s) within %.0f s",
                self._what, self._failures, self._last - self._since,
            )  # fmt: skip
            self._since, self._failures, self._untold = None, 0, 0


class WatchedTransport(Transport):
    """A transport that tells of attempts by a watch, instead of each.

    Args:
        watch: told of each attempt.
        parts: as the transport has them.
    """

    def __init__(self, watch: Watch, **parts: Any) -> None:  # noqa: ANN401 - those of the transport
        """Begin without a connection."""
        super().__init__(logger=_UNHEARD, **parts)
        self._watch = watch

    @override
    def retrying(self, label: str, attempt: Callable[[], T]) -> T:
        def watched() -> T:
            try:
                found = attempt()
            except TryAgain as e:
                self._watch.failed(f"{label} {e.problem}")
                raise
            except Outage as e:
                self._watch.failed(str(e))
                raise
            except RunStopped:  # an answer all the same
                self._watch.works()
                raise
            self._watch.works()
            return found

        return super().retrying(label, watched)


def transport_of(
    patience: Patience, rate: float, *, logger: logging.Logger, watch: Watch | None, at_once: int, afterwards: str
) -> Transport:
    """Make a transport, which tells the *logger* of each attempt that fails, or a *watch* if there is one."""
    parts: dict[str, Any] = {"patience": patience, "rate": rate, "at_once": at_once, "afterwards": afterwards}
    return WatchedTransport(watch, **parts) if watch else Transport(logger=logger, **parts)
