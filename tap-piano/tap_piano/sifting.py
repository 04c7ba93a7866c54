"""The close look at a CSV in which something is odd: its good rows go into a file that the database cannot misread.

A row has as many cells as the header. Surplus cells are taken for a spreadsheet's trailing commas only where every row
has them and they are blank in all; an unquoted comma looks the same in one row, and shifts its cells by one.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tap_piano.columns import Kind
from tap_piano.files import refused
from tap_piano.rows import QUOTES, Lines, is_blank, rows
from tap_piano.survey import BLANKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tap_piano.files import Export, Header
    from tap_piano.rows import Row

TOO_FEW: Final = "too few cells"
TOO_MANY: Final = "too many cells"
HEADER_AGAIN: Final = "header"
MAX_CELL_BYTES: Final = 1 << 24

_OPENING_QUOTES, _CLOSING_QUOTES = "\u201c\u201e\u201f\u00ab", "\u201d\u201c\u201f\u00bb"
_WHOLE_NUMBER = re.compile(r"[-+$]*[0-9]+")
_DECIMALS = re.compile(r"[0-9]{1,4}")


@dataclass(slots=True)
class Sifted:
    """What became of the rows of one file.

    Attributes:
        path: the good rows, without a header.
        cells: cells of each of them.
        good: how many these are.
        malformed: line and problem of each row that is left out.
        blank: rows of blank cells, which are of nobody and are passed over.
        simple: no row holds a line break or a stray quote, so the database may read in parallel.
    """

    path: Path
    cells: int
    good: int = 0
    malformed: list[tuple[int, str]] = field(default_factory=list)
    blank: int = 0
    simple: bool = True

    @property
    def rows(self) -> int:
        """All rows below the header."""
        return self.good + len(self.malformed) + self.blank


def sift(export: Export, header: Header, path: Path) -> Sifted:
    """Write the good rows of *export* to *path*.

    Raises:
        InputRefused: the file is cut off, or its line ends or quotes do not tell where its rows end.
    """
    end = _line_end(export)
    sifted = Sifted(path, _cells_of_rows(export, header))
    row = problem = None
    with path.open("wb", buffering=1 << 20) as file:
        for row, problem in judged_rows(export, sifted.cells):
            _check_line(export, row, end)
            if problem is None:
                file.write(row.raw if row.raw.endswith(end) else row.raw + end)
                sifted.good += 1
                sifted.simple &= row.simple
            elif problem:
                sifted.malformed.append((row.line, problem))
            else:
                sifted.blank += 1
    if row and problem in {TOO_FEW, QUOTES} and not row.raw.endswith(b"\n"):
        raise refused(export, f"line {row.line}: the last row is cut off. Download the export again")
    return sifted


def judged_rows(export: Export, cells: int) -> Iterator[tuple[Row, str | None]]:
    """Yield each row of *export* with its problem: None for a good row, and "" for one of blank cells only."""
    header = _header_line(export)
    for row in rows(export):
        if b"," in row.raw and not row.raw.strip(BLANKS):
            yield row, ""
        elif row.problem:
            yield row, row.problem
        elif row.cells != cells:
            yield row, TOO_FEW if row.cells < cells else TOO_MANY
        else:
            yield row, HEADER_AGAIN if row.raw.strip(b"\r\n") == header else None


def cells_of(raw: bytes) -> list[str]:
    """Take one row apart."""
    text = raw.decode(errors="surrogateescape")
    limit = csv.field_size_limit(MAX_CELL_BYTES)
    try:
        return next(csv.reader(io.StringIO(text, newline="")))
    finally:
        csv.field_size_limit(limit)


@contextmanager
def _lines(export: Export) -> Iterator[Lines]:
    with export.path.open("rb") as file:
        yield Lines(file, export.path.stat().st_size)


def _header_line(export: Export) -> bytes:
    with _lines(export) as lines:
        return lines.take_header().strip(b"\r\n")


def _line_end(export: Export) -> bytes:
    with _lines(export) as lines:
        return b"\r\n" if lines.take_header().endswith(b"\r\n") else b"\n"


def _check_line(export: Export, row: Row, end: bytes) -> None:
    """Refuse zero bytes, and a row that does not end as the header does: other readers would find other rows.

    Raises:
        InputRefused: that is so.
    """
    if b"\0" in row.raw:
        line = row.line + row.raw[: row.raw.index(b"\0")].count(b"\n")
        raise refused(export, f"line {line}: holds zero bytes, so it is damaged. Download it again")
    content = row.raw.removesuffix(b"\n").removesuffix(b"\r")
    found = row.raw[len(content) :]
    if (found and found != end) or (b"\r" in content and b"\r" in b"".join(content.split(b'"')[::2])):
        line = row.line + content.count(b"\n")
        problem = (
            f"line {line}: ends otherwise than the lines above, or holds a CR outside quotes, so rows cannot be told "
            "apart (line ends are mixed). Save the file with one kind of line end, or download it again"
        )
        raise refused(export, problem)


# Trailing commas


def _cells_of_rows(export: Export, header: Header) -> int:
    """Return how many cells a row has: those of the header, or more where every row ends in the same blank cells."""
    expected = len(header.columns)
    found: defaultdict[int, _Surplus] = defaultdict(lambda: _Surplus(header))
    for row in rows(export):
        if row.problem or row.cells < expected or is_blank(row.raw.strip(BLANKS)):
            continue
        if row.cells == expected:
            return expected
        found[row.cells].add(cells_of(row.raw))
    cells, surplus = max(found.items(), key=lambda item: item[1].rows, default=(expected, None))
    return cells if surplus and surplus.is_harmless else expected


class _Surplus:
    """All rows of one number of cells, larger than the header's."""

    def __init__(self, header: Header) -> None:
        self.rows = 0
        self._blank = True
        self._expected = len(header.columns)
        self._split_numbers = {at for at, column in enumerate(header.columns) if column.kind is Kind.MONEY}
        self._indented: set[int] | None = None
        self._torn_quotes = False

    def add(self, cells: list[str]) -> None:
        self.rows += 1
        self._blank = self._blank and not any(cell.strip() for cell in cells[self._expected :])
        indented = {at for at, cell in enumerate(cells) if cell[:1].isspace() and cell.strip()}
        self._indented = indented if self._indented is None else self._indented & indented
        self._split_numbers = {
            at
            for at in self._split_numbers
            if _WHOLE_NUMBER.fullmatch(cells[at].strip()) and _DECIMALS.fullmatch(cells[at + 1].strip())
        }
        self._torn_quotes = self._torn_quotes or any(
            cell.strip()[:1] in _OPENING_QUOTES and cell.strip()[-1:] not in _CLOSING_QUOTES
            for cell in cells
            if cell.strip()
        )

    @property
    def is_harmless(self) -> bool:
        """Blank in all rows, and no sign that a cell was torn in two at a comma: in a text, or in a decimal number."""
        return self._blank and not self._indented and not self._split_numbers and not self._torn_quotes
