"""The lease: one run at a time holds a ledger, and one that broke off does not hold it for ever.

No two machines' clocks are compared. Whoever finds a ledger held asks the server how old the holder's last word is, by
the server's own clock, and watches for how long it stays the same. The holder says it is alive every sixth of the
lease; where it cannot, it stops sending at half of it, so that what is in flight has landed before another may take
over.
"""

from __future__ import annotations

import copy
import os
import platform
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import Outage, RunStopped, StorageFailed

from target_recurly_engage.shared.pointer import FORMAT, Content, Moved

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from target_recurly_engage.shared.pointer import Pointer, Seen

MARGIN: Final = 2.0
"""Seconds: moments in the headers of an answer are whole ones."""

RENEWALS: Final = 6
"""In the time of a lease."""

SENDING: Final = 0.5
"""Of the lease without a renewal, after which nothing more is sent."""

LOOKS_SECONDS: Final = 2.0
"""Between two looks at a ledger that somebody holds."""


class LeaseLost(Outage):
    """Another run has taken the ledger, or may do so at any moment: nothing more may be sent."""


class Lease:
    """A lease of one run.

    Args:
        pointer: the object that says who holds the ledger.
        who: names the run, for people.
        seconds: after so long without a word the ledger is anybody's.
        wait: seconds to wait for who holds it.
        logger: told of waiting, taking over and what goes wrong.

    Attributes:
        content: what the object says, by our last write.
    """

    def __init__(self, pointer: Pointer, *, who: str, seconds: float, wait: float, logger: logging.Logger) -> None:
        """Take nothing yet."""
        self.content: Content = {}
        self._pointer = pointer
        self._who = f"{platform.node()}, process {os.getpid()}, {who}"
        self._seconds = seconds
        self._wait = wait
        self._logger = logger
        self._token = uuid.uuid4().hex
        self._etag: str | None = None
        self._lost = ""
        self._spoke_at = 0.0
        self._one_at_a_time = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    # Taking

    def take(self, *, moved: bool = False) -> None:
        """Take the ledger, and go on saying so; may wait for who holds it.

        Args:
            moved: also one that was moved away.

        Raises:
            StorageFailed: somebody holds it, and lives.
            RunStopped: the bucket cannot be asked, or the ledger was moved away.
        """
        began, watched = _seconds(), {"": 0.0}
        told = False
        while True:
            seen = self._pointer.read()
            if not moved:
                _check_moved(seen)
            holder = seen.content["holder"] if seen else None
            if seen is None or holder is None or self._is_over(seen, watched):
                if self._try(seen):
                    break
                continue
            if _seconds() - began >= self._wait:
                raise StorageFailed(self._in_use(seen, holder))
            if not told:
                self._logger.info("the ledger is held by %s since %s; waiting", holder["who"], holder["since"])
                told = True
            time.sleep(min(LOOKS_SECONDS, max(self._wait - (_seconds() - began), 0.01)))
        self._thread = threading.Thread(target=self._go_on, name="lease", daemon=True)
        self._thread.start()

    def _is_over(self, seen: Seen, watched: dict[str, float]) -> bool:
        """Whether the holder has said nothing for longer than his lease, by the server's clock or by our watch."""
        if seen.etag not in watched:
            watched.clear()
            watched[seen.etag] = _seconds()
        silent = max(seen.age or 0.0, _seconds() - watched[seen.etag])
        return silent > float(seen.content["holder"]["seconds"]) + MARGIN

    def _try(self, seen: Seen | None) -> bool:
        before = seen.content if seen else _empty()
        if before["holder"]:
            self._logger.warning(
                "the ledger was held by %s, of whom nothing was heard for longer than %s s; it is taken over",
                before["holder"]["who"],
                before["holder"]["seconds"],
            )
        content = copy.deepcopy(before) | {"fence": before["fence"] + 1}
        content["holder"] = {"who": self._who, "since": _now(), "seconds": self._seconds}
        self._etag, self.content = seen.etag if seen else None, content
        try:
            self.renew()
        except LeaseLost:
            self._lost = ""  # somebody else was faster: look again
            return False
        return True

    def _in_use(self, seen: Seen, holder: dict[str, Any]) -> str:
        heard = "" if seen.age is None else f", heard of {max(seen.age, 0):.0f} s ago"
        return (
            f"ledger: is in use by another run: {holder['who']}, since {holder['since']}{heard}. Wait for it, or give "
            f"ledger_wait a longer time. If it is dead, the ledger is free {holder['seconds']:g} s after its last word."
        )

    # Holding

    def hold(self) -> None:
        """Make sure that the ledger is ours for long enough to send something.

        Raises:
            LeaseLost: it is not.
        """
        silent = _seconds() - self._spoke_at
        if not self._lost and silent > self._seconds * SENDING:
            self._lost = f"it could not be renewed for {silent:.0f} s"
        if self._lost:
            raise LeaseLost(self._lost_words())

    def renew(self) -> None:
        """Say that the run lives.

        Raises:
            LeaseLost, RunStopped: as :meth:`change`.
        """
        self.change(lambda content: content)

    def change(self, change: Callable[[Content], Content]) -> None:
        """Change what the object says; ``content`` is that afterwards.

        Raises:
            LeaseLost: another run has taken the ledger.
            RunStopped: the bucket cannot be asked; a later change finds out what became of this one.
        """
        with self._one_at_a_time:
            while True:
                wanted = change(copy.deepcopy(self.content)) | {"by": self._token, "write": uuid.uuid4().hex}
                if wanted["holder"]:
                    wanted["holder"] |= {"until": _now(self._seconds)}
                began = _seconds()
                try:
                    self._etag = self._pointer.write(wanted, etag=self._etag)
                except Moved:
                    seen = self._pointer.read()
                    if seen is None or seen.content["by"] != self._token:
                        self._lost = f"it was taken over by {_holder_of(seen)}"
                        raise LeaseLost(self._lost_words()) from None
                    self._etag, self.content = seen.etag, seen.content  # an attempt whose answer did not come
                    if seen.content["write"] != wanted["write"]:
                        continue
                self.content, self._spoke_at = wanted, began
                return

    def _lost_words(self) -> str:
        return f"ledger: the lease is lost: {self._lost}. Nothing more is sent; run again."

    def _go_on(self) -> None:
        """Renew until it is over; an outage may pass, a loss does not."""
        while not self._over.wait(self._seconds / RENEWALS):
            try:
                with self._one_at_a_time:
                    if not self._over.is_set():
                        self.renew()
            except LeaseLost as e:
                self._logger.warning("%s", e)
                return
            except RunStopped as e:
                self._logger.warning("the lease of the ledger could not be renewed, which is tried again: %s", e)

    # Giving back

    def end(self, change: Callable[[Content], Content] = lambda content: content) -> None:
        """Change what the object says, and let the ledger go, both at once.

        Raises:
            LeaseLost, RunStopped: as :meth:`change`.
        """
        self.stop()
        self.change(lambda content: change(content) | {"holder": None})

    def stop(self) -> None:
        """Say no more that the run lives."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def is_live(seen: Seen) -> bool:
    """Whether somebody holds the ledger who has spoken lately, by the server's clock."""
    holder = seen.content["holder"]
    return bool(holder) and (seen.age or 0.0) <= float(holder["seconds"]) + MARGIN


def _check_moved(seen: Seen | None) -> None:
    if seen and seen.content.get("moved_to"):
        msg = f"ledger: it was moved to {seen.content['moved_to']}. Set the setting `ledger` to that."
        raise StorageFailed(msg)


def _empty() -> Content:
    """Say of a ledger that there is none."""
    return {
        "format": FORMAT, "fence": 0, "holder": None, "version": 0, "kept": [], "sending": [],
        "current": {"name": f"000000-{uuid.uuid4().hex[:8]}", "base": None, "bytes": 0, "sha256": None},
    }  # fmt: skip


def _holder_of(seen: Seen | None) -> str:
    if seen is None:
        return "nobody: it is gone"
    return str((seen.content["holder"] or {}).get("who", "a run that has ended"))


def _now(later: float = 0) -> str:
    return (datetime.now(tz=UTC) + timedelta(seconds=later)).isoformat(timespec="seconds")


def _seconds() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
