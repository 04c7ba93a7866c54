"""A second opinion on the parser: how many rows a CSV has, counted without it.

DuckDB reads a CSV in parallel and guesses where a row starts; a cell with line breaks that looks like whole rows
can mislead it. And where it sets malformed rows aside, it says nothing of a last row whose quotes never close. So
each file is counted by other means, and the counts have to agree before a row is believed.
"""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from tap_piano.files import refused

if TYPE_CHECKING:
    from _csv import Reader as _Reader
    from collections.abc import Iterator

    from tap_piano.files import Export

MAX_CELL_BYTES = 1 << 24
_END = "\x00end\x00"


@dataclass(frozen=True, slots=True)
class Shape:
    """What one pass over the bytes of a CSV tells.

    Attributes:
        records: rows below the header.
        quotes_close: False when the number of quotes is odd: the file ends inside quotes, or a quote stands where
            none belongs.
        ends_with_newline: whether the last line is complete.
    """

    records: int
    quotes_close: bool
    ends_with_newline: bool


def survey(export: Export) -> Shape:
    """Count the rows by quotes and line ends alone.

    Raises:
        InputRefused: the file holds zero bytes, as after a crash of the disk it was written to.
    """
    records = quotes = 0
    line = b"\n"
    unread = export.path.stat().st_size
    with export.path.open("rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, start=1):
            if b'"' in line:
                quotes += line.count(b'"')
            if not quotes & 1 and line not in {b"\n", b"\r\n"}:
                records += 1
            if b"\0" in line:
                raise refused(export, f"line {number}: holds zero bytes, so it is damaged. Download it again")
            unread -= len(line)
            if unread <= 0:  # what somebody appends meanwhile may have no end
                break
    return Shape(
        records=max(records - 1, 0), quotes_close=not quotes & 1, ends_with_newline=line.endswith((b"\n", b"\r"))
    )


def count_carefully(export: Export) -> int:
    """Count the rows below the header as Python's reader of CSV tells them apart: slow, and knows stray quotes.

    Raises:
        InputRefused: the file ends inside quotes, or holds a cell that no export has.
    """
    records, line, cells = -1, 1, [_END]
    with csv_rows(export, ending=_END) as rows:
        for place in rows:
            line, cells = place
            records += bool(cells)
    if cells != [_END]:
        raise refused(
            export,
            f"line {line}: the quotes opened in this row are never closed, so the file is cut off. Download the "
            "export again",
        )
    return records - 1


@contextmanager
def csv_rows(export: Export, *, ending: str | None = None) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Open an export as pairs of line and cells, header included; *ending* stands behind the last row.

    Raises:
        InputRefused: inside the block, for a cell that no export has.
    """
    limit = csv.field_size_limit(MAX_CELL_BYTES)
    try:
        with export.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield _numbered(csv.reader(file if ending is None else chain(file, [ending])))
    except csv.Error as e:
        raise refused(export, f"cannot be read as CSV ({e}). Download the export again") from e
    finally:
        csv.field_size_limit(limit)


def _numbered(reader: _Reader) -> Iterator[tuple[int, list[str]]]:
    line = 1
    for cells in reader:
        yield line, cells
        line = reader.line_num + 1


def odd_line_end(export: Export) -> int | None:
    """Find the first line outside quotes that ends otherwise than the header, or has a CR within."""
    quotes = 0
    header_end = None
    with export.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            was_open = quotes & 1
            quotes += line.count(b'"')
            if quotes & 1:
                continue
            end = line[len(line.rstrip(b"\r\n")) :]
            header_end = header_end or end
            if (end and end != header_end) or (
                b"\r" in line[: -len(end) or None] and b'"' not in line and not was_open
            ):
                return number
    return None
