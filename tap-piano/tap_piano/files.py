"""Export files on disk: unpacking them, and looking each over before a row of it is believed.

What is checked here is what makes a whole file useless: it is no CSV, it is cut off, it is still being written.
Single bad rows are the business of :mod:`tap_piano.log`.
"""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from piano_engage_common.stops import InputRefused

from tap_piano.archives import Packing, check_size, open_packed, unpack
from tap_piano.columns import REQUIRED, Column, column_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from zipfile import ZipInfo

MAX_HEADER_BYTES = 1 << 16

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe", "is UTF-16 and not UTF-8; save it again as UTF-8"),
    (b"\xfe\xff", "is UTF-16 and not UTF-8; save it again as UTF-8"),
    (b"%PDF", "is a PDF; export the log from Piano's Console as CSV"),
    (b"\x1f\x8b", "is gzip within gzip or ZIP; unpack it once"),
    (b"PK\x03\x04", "is a ZIP within gzip; unpack it once"),
    (b"\x00\x05\x16\x07", "is a companion that macOS writes beside a file; name the export itself"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save it as CSV"),
    (b"PAR1", "is Parquet; export the log from Piano's Console as CSV"),
    (b"<", "is a web page or XML; sign in to Piano's Console and download the export as CSV"),
    (b"{", "is JSON; export the log from Piano's Console as CSV"),
    (b"[", "is JSON; export the log from Piano's Console as CSV"),
)
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class Export:
    """One CSV of the subscription log, on its own or packed.

    Attributes:
        source: the file the user gave, whose state is watched while it is read.
        stamp: size in bytes, time of change and inode of *source* when it was found.
        packing: how it is packed.
        member: the member of a ZIP; None for another file.
        unpacked: where it was unpacked to, or linked.
        name: what to call *source* in messages instead of its path.
        mark: tells members of one name apart in messages.
    """

    source: Path
    stamp: tuple[int, int, int]
    packing: Packing = Packing.NONE
    member: ZipInfo | None = None
    unpacked: Path | None = None
    name: str = ""
    mark: str = ""

    @property
    def label(self) -> str:
        """What to call it in messages: the name the user knows it by."""
        name = self.name or str(self.source)
        return f"{name}!{self.member.filename}{self.mark}" if self.member else name

    @property
    def path(self) -> Path:
        """Where the CSV lies; what a database shall read must have been unpacked."""
        return self.unpacked or self.source

    @property
    def megabytes(self) -> float:
        """Size of the CSV in megabytes."""
        return self.path.stat().st_size / 1e6

    def head(self) -> bytes:
        """Read the first bytes, enough for the header row.

        Raises:
            InputRefused: the archive is broken.
        """
        with open_packed(self.source, self.packing, self.member, self.label) as file:
            return file.read(MAX_HEADER_BYTES)

    def unpack(self, folder: Path) -> Export:
        """Return the export with its CSV in *folder*: unpacked, or linked under a name without wildcards.

        Raises:
            InputRefused: the archive is broken, or far larger inside than any export.
        """
        target = folder / f"{len(list(folder.iterdir()))}.csv"
        if self.packing is Packing.NONE:
            target.symlink_to(self.source.absolute())
            return replace(self, unpacked=target)
        packed_size = self.member.compress_size if self.member else self.source.stat().st_size
        check_size(self.member.file_size if self.member else 0, packed_size, self.label)
        with open_packed(self.source, self.packing, self.member, self.label) as file:
            unpack(file, target, packed_size, self.label)
        return replace(self, unpacked=target)

    def check_unchanged(self) -> None:
        """Make sure that the file did not change since it was found.

        Raises:
            InputRefused: it did, so somebody is still writing it.
        """
        if not self.source.exists() or stamp_of(self.source) != self.stamp:
            msg = f"{self.label}: changed while it was read. Wait until the export is complete, then run again."
            raise InputRefused(msg)


@dataclass(frozen=True, slots=True)
class Header:
    """The header row of one export.

    Attributes:
        columns: one per cell, in the order of the file, all under different names.
    """

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The property names of the columns."""
        return tuple(column.name for column in self.columns)

    def __contains__(self, name: str) -> bool:
        """Say whether the file has the column of that property name."""
        return name in self.names


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Return size, time of change and inode of a file."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino


def read_header(export: Export) -> Header:
    """Read and bind the header row.

    Raises:
        InputRefused: the file is no CSV, has another delimiter, lacks a required column, or has a column twice.
    """
    line, row = _header_row(export)
    headers = [cell.strip() for cell in next(csv.reader(io.StringIO(row, newline="")))]
    columns = tuple(_columns(headers))
    names = tuple(column.name for column in columns)
    _check_required(export, line, headers, names)
    _check_distinct(export, line, headers, names)
    return Header(columns)


def _columns(headers: Iterable[str]) -> Iterator[Column]:
    for number, header in enumerate(headers, start=1):
        column = column_of(header)
        yield column if column.name else Column(f"Column {number}", group="unknown")


def _header_row(export: Export) -> tuple[int, str]:
    """Return the line of the header and its text; blank lines above it are passed over."""
    start = export.head().removeprefix(codecs.BOM_UTF8)
    if not start.strip():
        raise refused(export, "is empty. Download the export again")
    first = start[: len(start) - len(start.lstrip(b"\r\n"))].count(b"\n") + 1
    start = start.lstrip(b"\r\n")
    for signature, problem in _SIGNATURES:
        if start.startswith(signature):
            raise refused(export, problem)
    if b"\r" in start and b"\n" not in start:
        raise refused(export, "its lines end in CR alone. Save it with LF or CRLF")
    if b"\r\r\n" in start[: start.index(b"\n") + 1 if b"\n" in start else 0]:
        problem = "its lines end in CR CR LF, so line ends were converted twice. Save it with LF or CRLF"
        raise refused(export, problem)
    row = _first_row(start)
    if row is None:
        raise refused(export, f"line {first}: the quotes opened in the header are never closed: the file is cut off")
    if b"\0" in row:
        raise refused(export, f"line {first}: holds zero bytes, so it is UTF-16 or damaged. Save the file as UTF-8")
    try:
        return first, row.decode()
    except UnicodeDecodeError as e:
        problem = f"line {first}: is not UTF-8 (byte {e.start + 1} of the line). Save the file as UTF-8"
        raise refused(export, problem) from e


def _first_row(start: bytes) -> bytes | None:
    """Cut off what stands behind the first line break outside quotes; None when the quotes do not close."""
    end = quotes = 0
    for line in start.splitlines(keepends=True):
        end += len(line)
        quotes += line.count(b'"')
        if not quotes & 1:
            return start[:end].rstrip(b"\r\n")
    return None


def refused(export: Export, problem: str) -> InputRefused:
    """Make the error that an export cannot be used; *problem* follows the file's name."""
    return InputRefused(f"{export.label}: {problem}.")


def _check_distinct(export: Export, line: int, headers: list[str], names: tuple[str, ...]) -> None:
    first_seen: dict[str, int] = {}
    for position, name in enumerate(names):
        first = first_seen.setdefault(name, position)
        if first != position:
            both = f"{headers[first]!r} and {headers[position]!r}"
            problem = (
                f"line {line}: the columns {first + 1} and {position + 1} ({both}) are the same column. "
                "Remove one of them"
            )
            raise refused(export, problem)


def _check_required(export: Export, line: int, headers: list[str], names: tuple[str, ...]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if not missing:
        return
    for delimiter, words in _DELIMITERS.items():
        split = [column_of(cell.strip().strip('"')).name for cell in delimiter.join(headers).split(delimiter)]
        if all(name in split for name in REQUIRED):
            msg = f"{export.label}: line {line}: the cells are divided by {words}. Piano divides by commas: save it so."
            raise InputRefused(msg)
    wanted = {"subscription_id": "Subscription ID", "user_id": "User ID (UID)"}
    listed = " and ".join(repr(wanted[name]) for name in missing)
    known = [header for header in headers if column_of(header).group != "unknown"]
    if known:
        seen = f"It has {', '.join(map(repr, known[:5]))}"
    else:
        seen = f"None of its {len(headers)} cells is a header of the log (a part of a file that was split has none)"
    msg = (
        f"{export.label}: line {line}: no column {listed}. {seen}. "
        "Is it the subscription log (Reports > Logs > Subscriptions) as CSV?"
    )
    raise InputRefused(msg)
