"""The rows of a CSV, one by one, as RFC 4180 has them: slow, exact, and not misled by a stray quote.

Both the database and Python's ``csv`` read more than RFC 4180 allows, and not the same. What the two read alike is a
row here; what they do not is malformed. Where a malformed row ends is decided only where there is one possible end.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from tap_piano.files import refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tap_piano.files import Export

MAX_ROW_BYTES: Final = 2_000_000
QUOTES: Final = "quotes"
"""Problem of a row whose quotes are not where RFC 4180 has them."""

_COMMA = ord(",")
_QUOTED = re.compile(rb'"[^"]*(?:""[^"]*)*"(?!")')
_TO_CLOSING_QUOTE = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')
_UNQUOTED = re.compile(rb"[^,\n]*")
_CLOSES = re.compile(rb'[^"]*(?:""[^"]*)*"(?:,|\r?\n|\Z)')
_OPENS = re.compile(rb'(?:[^"]*,)?"')


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file, header and blank lines left out.

    Attributes:
        line: line of the file in which it starts, counted from 1.
        offset: where it starts, in bytes.
        raw: its bytes, with the line end.
        cells: how many cells it has; 0 where its quotes are malformed.
        problem: :data:`QUOTES`, or None.
        simple: it is one line, and all its quotes stand where RFC 4180 has them.
    """

    line: int
    offset: int
    raw: bytes
    cells: int
    problem: str | None = None
    simple: bool = True


class Lines:
    """The lines of a file as it was when it was opened, with their numbers; some may be put back."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Start at the first line."""
        self._file = file
        self._unread = size
        self._back: deque[bytes] = deque()
        self.number = 0
        self.offset = 0

    def take(self) -> bytes:
        """Return the next line with its end; nothing at the end of the file."""
        if self._back:
            line = self._back.popleft()
        else:
            line = self._file.readline() if self._unread > 0 else b""  # what somebody appends meanwhile may have no end
            self._unread -= len(line)
        self.number += bool(line)
        self.offset += len(line)
        return line

    def put_back(self, lines: Sequence[bytes]) -> None:
        """Put back the last *lines* that were taken."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)
        self.offset -= sum(map(len, lines))

    def take_header(self) -> bytes:
        """Return the first row that is not blank: lines up to the first end outside quotes."""
        line = self.take()
        while line and is_blank(line.removeprefix(codecs.BOM_UTF8)):
            line = self.take()
        while line.count(b'"') & 1 and (more := self.take()):
            line += more
        return line.removeprefix(codecs.BOM_UTF8)


def is_blank(line: bytes) -> bool:
    """Return whether *line* holds nothing at all."""
    return not line.strip(b"\r\n")


def sound_cells(raw: bytes) -> int:
    """Count the cells of a row; 0 where a quote is not at the beginning or the end of a cell, or not doubled inside."""
    outside = raw.split(b'"')[::2] if raw.count(b'"') % 2 == 0 else []
    if not are_sound(outside):
        return 0
    return sum(part.count(b",") for part in outside) + 1


def are_sound(outside: Sequence[bytes]) -> bool:
    """Return whether the parts of a row outside quotes begin and end where a cell may.

    Args:
        outside: every second part of a row that was split by its quotes; between two of these is a quoted text, or
            half of one when an empty part follows: that is a doubled quote.
    """
    if not outside:
        return False
    first, last = outside[0], outside[-1]
    if len(outside) == 1:
        return True
    return (
        (not first or first[-1] == _COMMA)
        and (not last or last[0] == _COMMA or is_blank(last))
        and all(not part or (part[0] == _COMMA and part[-1] == _COMMA) for part in outside[1:-1])
    )


def rows(export: Export) -> Iterator[Row]:
    """Yield the rows of *export*.

    Raises:
        InputRefused: quotes are never closed, or it cannot be told where the row with a stray quote ends.
    """
    size = export.path.stat().st_size
    with export.path.open("rb", buffering=1 << 20) as file:
        lines = Lines(file, size)
        lines.take_header()
        offset = lines.offset
        while line := lines.take():
            if is_blank(line):
                pass
            elif cells := sound_cells(line):
                yield Row(lines.number, offset, line, cells)
            else:
                yield from _Scan(export, lines, line, offset).rows()
            offset = lines.offset


class _Scan:
    """One row with line breaks or odd quotes, cell by cell."""

    def __init__(self, export: Export, lines: Lines, line: bytes, offset: int) -> None:
        """Begin with the first line of the row."""
        self._export = export
        self._lines = lines
        self._first = lines.number
        self._offset = offset
        self._taken = [line]
        self._text = line
        self._position = 0

    def rows(self) -> Iterator[Row]:
        """Yield the row; where it is malformed, each of its lines, for nobody knows how many rows these were."""
        cells = self._cells()
        if cells:
            yield Row(self._first, self._offset, b"".join(self._taken), cells, simple=False)
            return
        while sum(line.count(b'"') for line in self._taken) & 1 and (more := self._lines_behind_stray_quote()):
            self._taken += more
        offset = self._offset
        for number, line in enumerate(self._taken, start=self._first):
            if not is_blank(line):
                yield Row(number, offset, line, 0, QUOTES, simple=False)
            offset += len(line)

    def _cells(self) -> int:
        """Count the cells up to the end of the row, taking lines as needed; 0 where a quote is out of place."""
        cells = 0
        while True:
            cells += 1
            quoted = self._text.startswith(b'"', self._position)
            if not (self._past_quoted() if quoted else self._past_unquoted()):
                return 0
            if not self._text.startswith(b",", self._position):
                return cells if is_blank(self._text[self._position :]) else 0
            self._position += 1

    def _past_unquoted(self) -> bool:
        """Step over a cell without quotes around it; quotes behind other text are text, as all readers have it."""
        found = _UNQUOTED.match(self._text, self._position)
        cell = found.group() if found else b""
        self._position += len(cell.rstrip(b"\r\n"))
        before, quote, _ = cell.partition(b'"')
        return not quote or bool(before.strip(b" "))

    def _past_quoted(self) -> bool:
        found = _QUOTED.match(self._text, self._position)
        size = len(self._text) - self._position
        while found is None:
            line = self._lines.take()
            size += len(line)
            if not line:
                problem = "the quotes opened in this row are never closed, so the file is cut off"
                raise refused(self._export, f"line {self._first}: {problem}. Download the export again")
            if size > MAX_ROW_BYTES:
                problem = "the quotes opened in this row are not closed within 2 MB"
                raise refused(self._export, f"line {self._first}: {problem}. Download the export again")
            self._taken.append(line)
            found = _TO_CLOSING_QUOTE.match(line)
            self._text = line
        self._position = found.end()
        return True

    def _lines_behind_stray_quote(self) -> list[bytes]:
        """Take the lines that a stray quote has opened; none where it opened nothing.

        The next quote decides: it can close a cell that was open, or open one where none was.
        """
        seen: list[bytes] = []
        while sum(map(len, seen)) <= MAX_ROW_BYTES and (line := self._lines.take()):
            seen.append(line)
            if b'"' not in line.replace(b'""', b""):
                continue
            opens, closes = _OPENS.match(line) is not None, _CLOSES.match(line) is not None
            if closes and not opens:
                return seen
            if opens and not closes:
                break
            problem = "a quote is where none belongs, and it cannot be told which rows follow"
            raise refused(self._export, f"line {self._first}: {problem}. Download the export again")
        self._lines.put_back(seen)
        return []
