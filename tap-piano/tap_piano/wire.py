"""Standard output, where the messages go: whole lines only, whatever signal comes.

The SDK writes a STATE when a signal ends the run, in the middle of a line if need be, and exits with 0. Here a
signal that comes while a line is written waits for the end of that line; then the process exits with 128 plus the
signal's number. The STATE messages already written say all that is sure.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from singer_sdk.io_base import SingerWriter
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from singer_sdk.singerlib import Message

CHUNK_BYTES = 1 << 20


class Wire(SingerWriter):
    """Writes messages to standard output."""

    _busy = False
    _signal: int | None = None

    @override
    def write_message(self, message: Message) -> None:
        with self._whole_lines():
            super().write_message(message)

    def copy_lines(self, path: Path) -> None:
        """Write a file of messages, one a line."""
        with path.open("rb") as lines:
            while chunk := lines.read(CHUNK_BYTES):
                with self._whole_lines():
                    _write_all(chunk + lines.readline())

    def write_lines(self, content: bytes) -> None:
        """Write messages, one a line."""
        with self._whole_lines():
            _write_all(content)

    def end(self, number: int) -> None:
        """End the process because of a signal: now, or when the line that is being written is complete.

        Raises:
            SystemExit: with 128 plus the signal's number.
        """
        self._signal = number
        if not self._busy:
            raise SystemExit(128 + signal.Signals(number))

    @contextmanager
    def _whole_lines(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._signal is not None:
            self.end(self._signal)


def _write_all(content: bytes) -> None:
    """Write *content* completely; unbuffered (``PYTHONUNBUFFERED``), a signal makes the pipe take only a part."""
    view = memoryview(content)
    while view:
        view = view[sys.stdout.buffer.write(view) :]
    sys.stdout.buffer.flush()
