"""Makes the files of exports beside the server: a small one in a thread, a big one in a process of its own.

A thread takes turns with the server, which is quick enough for some thousand rows. A big file would slow every answer
down for half a minute, so `python -m piano_engage_sandbox.piano.files` makes it: the order comes pickled on standard
input, how far it is goes to standard output line by line. That process knows nothing of the server and stays small.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import threading
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox.export import Export, write_export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from piano_engage_sandbox.export import Options

    Told = Callable[[int, int], None]

BIG: Final = 5_000
"""An application with more rows has its files made in a process."""


class MakingError(Exception):
    """A file that could not be made; the text goes into `error_text`."""


class StoppedError(Exception):
    """Nobody wants the file any more."""


class Workshop:
    """Makes files: one thread and one process at a time, so that memory stays small however many are asked for."""

    def __init__(self, big: int = BIG) -> None:
        """Begin with nothing to do. Belongs to the loop it is first used in."""
        self.big = big
        self._thread = asyncio.Semaphore(1)
        self._process = asyncio.Semaphore(1)
        self.child: int | None = None
        """Id of the process at work, if any."""

    async def make(self, path: Path, options: Options, told: Told) -> int:
        """Make a file and give its number of rows; `told` hears of rows written and rows counted.

        The file appears under its name when it is complete. Raises MakingError. A cancelled task has stopped its work
        when it ends.
        """
        if self.is_big(options):
            async with self._process:
                return await self._by_process(path, options, told)
        async with self._thread:
            return await _by_thread(path, options, told)

    def is_big(self, options: Options) -> bool:
        """Whether a process makes it."""
        return (options.get("rows") or 0) > self.big

    async def _by_process(self, path: Path, options: Options, told: Told) -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE)
        self.child = process.pid
        last: dict[str, object] = {}
        try:
            if process.stdin is None or process.stdout is None:
                raise MakingError("the process that makes the file cannot be spoken to")
            process.stdin.write(pickle.dumps((str(path), options)))
            process.stdin.close()
            async for line in process.stdout:
                last = json.loads(line)
                if "counted" in last:
                    told(int(str(last["written"])), int(str(last["counted"])))
            code = await process.wait()
        except (ConnectionError, ValueError) as e:
            msg = f"the process that makes the file broke off: {e}"
            raise MakingError(msg) from e
        finally:
            self.child = None
            if process.returncode is None:
                process.kill()
                await process.wait()
        if "error" in last:
            raise MakingError(str(last["error"]))
        if code or "rows" not in last:
            msg = f"the process that makes the file ended with {code}"
            raise MakingError(msg)
        return int(str(last["rows"]))


async def _by_thread(path: Path, options: Options, told: Told) -> int:
    stopped = threading.Event()

    def tell(written: int, counted: int) -> None:
        if stopped.is_set():
            raise StoppedError
        told(written, counted)

    work = asyncio.ensure_future(asyncio.to_thread(_write, path, options, tell))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.gather(work, return_exceptions=True)
        raise
    except (ValueError, OSError) as e:
        raise MakingError(str(e)) from e


def _write(path: Path, options: Options, told: Told) -> int:
    return write_export(path, Export(**options), told=told)


def main() -> int:
    """Make the one file that standard input describes; returns the exit code."""

    def say(**what: object) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    path, options = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server that started this process
    try:
        rows = _write(path, options, lambda written, counted: say(written=written, counted=counted))
    except (ValueError, OSError) as e:
        say(error=str(e))
        return 1
    say(rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
