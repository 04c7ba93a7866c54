"""Where requests come together: one that is asked for many times at once is done once, and all get its answer."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import Outage, RunStopped
from sqlalchemy.exc import SQLAlchemyError

from piano_actions.desk import NAMES
from piano_actions.store import InFlight, KeyTaken, ReaderBusy
from piano_actions.watch import Watch

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncIterator, Callable

    from piano_actions.desk import Desk
    from piano_actions.outcome import Outcome
    from piano_actions.pushes import Pusher
    from piano_actions.service.gate import Limits
    from piano_actions.service.metrics import Metrics
    from piano_actions.store import Request

LOOK_SECONDS: Final = 1.0
"""How often it is looked for readers of whom Engage is still to be told."""
RECOVER_EVERY: Final = 15
"""Of these looks, every so manieth also looks for actions that were left behind."""
SWEEP_EVERY: Final = 300
"""And every so manieth forgets what is old."""
TOLD_TOGETHER: Final = 100
"""Readers of one look; the others follow with the next, which is not later."""
BACKGROUND: Final = 2
"""Threads for what is done later than at a click, which do not hold up clicks."""


class TooMany(Exception):  # noqa: N818 - what happened
    """More actions than the limits allow.

    Args:
        seconds: after which to come again.
    """

    def __init__(self, seconds: float) -> None:
        """Remember when."""
        super().__init__()
        self.seconds = seconds


@dataclass(slots=True)
class _Flight:
    body: str
    answer: asyncio.Task[Outcome]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class Counter:
    """Takes requests of the service.

    Args:
        desk: has them done.
        pusher: tells Engage; None where the nightly run does.
        limits: how many may begin.
        metrics: counts.
        workers: actions at the same time.
        patience: seconds to wait for another action of the same reader.
        sweep: forgets what is old.
        logger: told of what fails in the background.
    """

    def __init__(  # noqa: PLR0913 - the parts it is put together from
        self,
        desk: Desk,
        pusher: Pusher | None,
        *,
        limits: Limits,
        metrics: Metrics,
        workers: int,
        patience: float,
        sweep: Callable[[], None] | None = None,
        logger: logging.Logger,
    ) -> None:
        """Open for business."""
        self.desk = desk
        self.pusher = pusher
        self._limits = limits
        self._metrics = metrics
        self._patience = patience
        self._sweep = sweep
        self._actions = {name: Watch(f"Doing {name}", logger) for name in NAMES}
        self._tidying = Watch("Looking after what was left behind", logger)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="action")
        self._telling = ThreadPoolExecutor(2, thread_name_prefix="telling")
        self._background = ThreadPoolExecutor(BACKGROUND, thread_name_prefix="background")
        self._flights: dict[str, _Flight] = {}
        self._turns: dict[str, _Turn] = {}
        if pusher:
            desk.tell = lambda user_id, changed: self._telling.submit(pusher.push, user_id, changed)

    @property
    def in_flight(self) -> int:
        """How many requests are being worked on."""
        return len(self._flights)

    async def run(self, request: Request) -> Outcome:
        """Have a request done, or wait for whoever has the same one done.

        Raises:
            KeyTaken: the key stands for another request.
            TooMany: the limits do not allow it now.
            InFlight, ReaderBusy: another process, or another action of the reader, took too long.
            RunStopped: it could not be done.
        """
        flight = self._flights.get(request.key)
        if flight is None:
            pause = self._limits.wait(self.desk.store.hash_of(request.user_id))
            if pause:
                raise TooMany(pause)
            flight = _Flight(request.body, asyncio.create_task(self._work(request)))
            self._flights[request.key] = flight
            flight.answer.add_done_callback(lambda _done: self._flights.pop(request.key, None))
        elif flight.body != request.body:
            raise KeyTaken
        return await asyncio.shield(flight.answer)  # who hangs up does not stop it for the others

    async def _work(self, request: Request) -> Outcome:
        started, status = time.monotonic(), "error"
        loop = asyncio.get_running_loop()
        try:
            async with self._turn(request.user_id):
                left = max(self._patience - (time.monotonic() - started), 0.0)
                found = await loop.run_in_executor(self._threads, lambda: self.desk.run(request, patience=left))
            status = str(found.status)
        except (RunStopped, InFlight, ReaderBusy, KeyTaken) as e:
            status = "outage" if isinstance(e, Outage) else type(e).__name__.lower()
            if isinstance(e, RunStopped):  # the caller is not told which setting it is, so whoever runs it must be
                self._actions[request.action].failed(f"{request.action} could not be done: {e}")
            raise
        else:
            self._actions[request.action].works()
            return found
        finally:
            self._metrics.note(request.action, status, time.monotonic() - started)

    @asynccontextmanager
    async def _turn(self, user_id: str) -> AsyncIterator[None]:
        """Wait until no other action of the reader is under way here, without a thread, which others may need.

        Raises:
            ReaderBusy: that takes too long.
        """
        turn = self._turns.setdefault(user_id, _Turn())
        turn.wanted += 1
        try:
            try:
                await asyncio.wait_for(turn.lock.acquire(), self._patience)
            except TimeoutError:
                raise ReaderBusy from None
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[user_id]

    async def tidy(self) -> None:
        """Go on, for ever, with what was left behind and what is still to be told."""
        loop, looks = asyncio.get_running_loop(), 0
        while True:
            more = False
            try:
                if looks % RECOVER_EVERY == 0:
                    await loop.run_in_executor(self._background, lambda: self.desk.recover(every=False))
                if self._sweep and looks % SWEEP_EVERY == 0:
                    await loop.run_in_executor(self._background, self._sweep)
                if self.pusher:
                    more = await self._tell_some(self.pusher) == TOLD_TOGETHER
            except SQLAlchemyError as e:  # the next look may well succeed
                self._tidying.failed(f"The store does not answer: {str(e.__cause__ or e).splitlines()[0]}")
            except Exception as e:  # noqa: BLE001 - likewise
                self._tidying.failed(f"looking after what was left behind failed: {type(e).__name__}", fault=e)
            else:
                self._tidying.works()
            looks += 1
            await asyncio.sleep(0 if more else LOOK_SECONDS)

    async def _tell_some(self, pusher: Pusher) -> int:
        """Tell Engage of readers whose time has come, and say of how many."""
        counts = await asyncio.get_running_loop().run_in_executor(
            self._background, lambda: pusher.send_due(limit=TOLD_TOGETHER)
        )
        return sum(counts.values())

    async def close(self) -> None:
        """Let what is under way come to an end."""
        flights = [flight.answer for flight in self._flights.values()]
        self.desk.stop()
        if self.pusher:
            self.pusher.stop()
        await asyncio.gather(*flights, return_exceptions=True)
        for threads in (self._threads, self._background, self._telling):  # the last one is given work by the others
            threads.shutdown(wait=True)
