"""A second opinion on the database: how many rows a CSV has, and whether the database can be left to read it.

DuckDB reads a CSV in parallel and guesses where a row starts, and it takes rows that Python's reader understands
otherwise: with a surplus cell that is blank, or with blanks around quotes. So each file is looked over by other means,
as cheaply as possible. Where everything in it is as RFC 4180 has it, the database reads the file as it is; else
:mod:`tap_piano.sifting` goes through it row by row.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from tap_piano.files import refused
from tap_piano.rows import MAX_ROW_BYTES, are_sound, is_blank, sound_cells

if TYPE_CHECKING:
    from tap_piano.files import Export

EXCEL_LIMITS: Final = (1_048_576, 65_536)
"""Rows that a worksheet of Excel holds, header included: .xlsx, and .xls."""

BLANKS: Final = b'", \t\r\n'
"""What a row of blank cells consists of."""

_BLANK_ENDS = (b",\n", b",\r\n", b',""\n', b',""\r\n', b",", b',""')


@dataclass(frozen=True, slots=True)
class Shape:
    """What one pass over the bytes of a CSV tells.

    Attributes:
        records: rows below the header.
        imitations: a cell holds lines that look like whole rows, so that a parallel reader may be misled.
    """

    records: int
    imitations: bool = False


class _Odd(Exception):  # noqa: N818 - no error, and never seen outside
    """The file holds a row that has to be looked at closely."""


def survey(export: Export, cells: int) -> Shape | None:
    """Count the rows, if each has as many cells as the header and all quotes are where RFC 4180 has them.

    Args:
        export: the file.
        cells: how many cells its header has.

    Returns:
        None where a row is otherwise, or is blank, or is the header again.
    """
    with export.path.open("rb", buffering=1 << 20) as file:
        try:
            return _Survey(export, file, cells).shape()
        except _Odd:
            return None


class _Survey:
    def __init__(self, export: Export, file: BinaryIO, cells: int) -> None:
        self._unread = export.path.stat().st_size
        self._file = file
        self._commas = cells - 1
        self._imitations = False

    def shape(self) -> Shape:
        """Go through the file.

        Raises:
            _Odd: something in it has to be looked at closely.
        """
        header = self._file.readline()
        while header.count(b'"') & 1 and (more := self._file.readline()):
            header += more
        self._unread -= len(header)
        header = header.removeprefix(codecs.BOM_UTF8)
        if sound_cells(header) != self._commas + 1:
            raise _Odd
        crlf = header.endswith(b"\r\n")
        records = 0
        for first in self._file if self._unread > 0 else ():
            line = first
            if b'"' in line:
                line = self._quoted_row(line)
            elif b"\r" in line and not (crlf and line.find(b"\r") == len(line) - 2):
                raise _Odd
            if line.endswith(_BLANK_ENDS):
                self._check_blank_end(line)
            if b"\0" in line or line == header or (crlf and not line.endswith(b"\r\n") and line.endswith(b"\n")):
                raise _Odd
            records += not is_blank(line)
            self._unread -= len(line)
            if self._unread <= 0:  # what somebody appends meanwhile may have no end
                break
        return Shape(records, self._imitations)

    def _check_blank_end(self, line: bytes) -> None:
        """Look at a row that may have a blank cell too many, or nothing but such."""
        outside = b"".join(line.split(b'"')[::2])
        if outside.count(b",") != self._commas or not line.strip(BLANKS):
            raise _Odd

    def _quoted_row(self, line: bytes) -> bytes:
        """Return the whole row that begins with *line*."""
        parts = line.split(b'"')
        if not len(parts) & 1:
            line = self._rest_of_row(line)
            parts = line.split(b'"')
            if any(b"\n" in cell and cell.count(b",") >= self._commas for cell in parts[1::2]):
                self._imitations = True
        outside = parts[::2]
        if not are_sound(outside) or b"\r" in outside[0] or b"\r" in outside[-1].removesuffix(b"\r\n"):
            raise _Odd
        return line

    def _rest_of_row(self, line: bytes) -> bytes:
        taken, size = [line], len(line)
        for more in self._file:
            taken.append(more)
            size += len(more)
            if more.count(b'"') & 1:
                return b"".join(taken)
            if size > MAX_ROW_BYTES:
                break
        raise _Odd


def check_row_limit(export: Export, rows: int) -> None:
    """Refuse a file that Excel has cut off at its limit.

    Args:
        export: the file.
        rows: rows with the header, blank ones too.

    Raises:
        InputRefused: it has exactly as many rows as a worksheet of Excel.
    """
    if rows in EXCEL_LIMITS:
        problem = (
            f"has exactly {rows:,} rows with the header, which is the limit of a worksheet: Excel drops the rest when "
            "it saves a longer file. Use the export as Piano made it. If it is complete, split it into two files, each "
            "with the header"
        )
        raise refused(export, problem)
