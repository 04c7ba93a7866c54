"""The reading of files: from the ingest folder into the store, one after the other, in the order of their upload."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox.engage.csvs import FileRefused, Plan, PushTokens, Report, rows, survey
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.engage.users import IngestedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moto.s3.models import FakeKey

    from piano_engage_sandbox.engage.bucket import Bucket
    from piano_engage_sandbox.engage.csvs import Properties, Row
    from piano_engage_sandbox.service import Sandbox

BLOCK: Final = 1 << 20
"""Bytes read from an object at once."""
BATCH: Final = 500
"""Rows read at once, beside the event loop."""
SLICE: Final = 0.003
"""Seconds for which rows are written before other work gets its turn."""
LONGEST_WAIT: Final = 0.25
"""Seconds after which the clock is looked at again: somebody may have let it run."""


class Stored(io.RawIOBase):
    """An object of moto's as a file, read block by block instead of in one piece. Not to be replaced meanwhile."""

    def __init__(self, stored: FakeKey) -> None:
        """Begin at its beginning."""
        self._stored = stored
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # what BufferedReader hands over
        """Read the next bytes; raises OSError when the object was replaced."""
        try:
            with self._stored.lock:  # moto's own, as its buffer is one file with one position
                content = self._stored._value_buffer  # noqa: SLF001 - `value` would copy the whole object
                content.seek(self._at)
                data = content.read(len(buffer))
        except ValueError as e:
            msg = "the object was removed while it was read"
            raise OSError(msg) from e
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Intake:
    """Reads files when they are due."""

    def __init__(self, sandbox: Sandbox, bucket: Bucket, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for files; `run` reads them."""
        self._sandbox = sandbox
        self._switches = sandbox.switches.engage
        self._bucket = bucket
        self._loop = loop
        self._waiting: deque[tuple[IngestedFile, FakeKey]] = deque()
        self._woken = asyncio.Event()
        sandbox.now.watch(lambda _: self._wake())

    def uploaded(self, key: str, stored: FakeKey) -> None:
        """Note a new file; called by the threads of the S3 server, before the uploader has his answer."""
        file = IngestedFile(key, stored.size, self._sandbox.now())
        self._loop.call_soon_threadsafe(self._note, file, stored)

    def _note(self, file: IngestedFile, stored: FakeKey) -> None:
        self._sandbox.part(Engage).files.append(file)
        self._waiting.append((file, stored))
        self._woken.set()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Read what is due, for ever."""
        while True:
            self._woken.clear()
            while self._waiting and self._left() <= 0:
                await self.read(*self._waiting.popleft())
            try:
                await asyncio.wait_for(self._woken.wait(), self._pause())
            except TimeoutError:
                continue

    def _left(self) -> float:
        """Give the seconds of the sandbox's clock until the next file is due."""
        return self._waiting[0][0].uploaded + self._switches.csv_delay - self._sandbox.now()

    def _pause(self) -> float | None:
        """Give the real seconds to wait; None is until something happens."""
        if not self._waiting:
            return None
        return min(max(self._left(), 0.0), LONGEST_WAIT) if self._sandbox.now.running else LONGEST_WAIT

    async def read(self, file: IngestedFile, stored: FakeKey) -> None:
        """Read one file into the store."""
        file.status = "reading"
        report = Report()
        try:
            if self._bucket.object(file.key) is not stored:
                msg = "the object was removed or replaced before it was read"
                raise FileRefused(msg)  # noqa: TRY301 - one way out for all refusals
            plan = await asyncio.to_thread(survey, lambda: _open(stored), self._switches, report)
            await self._write(file, stored, plan, report)
            file.status = "done"
        except PushTokens:
            file.status = "ignored"
            report.note("push tokens: taken, but not kept by the sandbox")
        except (FileRefused, OSError) as e:
            file.status = "refused"
            report.errors.insert(0, str(e))
        file.rows, file.skipped = report.rows, report.skipped
        file.dropped, file.errors = report.dropped, report.errors
        file.read_at = self._sandbox.now()
        if self._switches.csv_removed and self._bucket.object(file.key) is stored:
            self._bucket.remove(file.key)

    async def _write(self, file: IngestedFile, stored: FakeKey, plan: Plan, report: Report) -> None:
        """Write row by row: reading is done beside the event loop, writing in slices of it."""
        found = rows(lambda: _open(stored), plan, self._switches, report)
        began = time.perf_counter()
        while batch := await asyncio.to_thread(_take, found):
            for user_id, properties in batch:
                self._write_row(file, user_id, properties, report)
                if time.perf_counter() - began > SLICE:
                    await asyncio.sleep(0)
                    began = time.perf_counter()
            file.rows = report.rows

    def _write_row(self, file: IngestedFile, user_id: str, properties: Properties, report: Report) -> None:
        engage = self._sandbox.part(Engage)
        if self._switches.csv_unknown_user == "skip" and engage.user(user_id) is None:
            report.skipped += 1
            return
        engage.write(user_id, properties, source="csv")
        file.users += 1


def _open(stored: FakeKey) -> io.BufferedReader:
    return io.BufferedReader(Stored(stored), BLOCK)


def _take(found: Iterator[Row]) -> list[Row]:
    return list(islice(found, BATCH))
