"""Export files on disk: finding them, unpacking them, and looking each over before a row of it is believed.

What is checked here is what makes a whole file useless: it is no CSV, it is cut off, it is still being written.
Single bad rows are the business of :mod:`tap_piano.log`.
"""

from __future__ import annotations

import codecs
import csv
import glob
import shutil
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from piano_engage_common.stops import InputRefused, NoInput

from tap_piano.columns import REQUIRED, Column, column_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIXES = (".csv", ".zip")
MAX_HEADER_BYTES = 1 << 16
MAX_ZIP_RATIO = 1000
"""A real export shrinks by a factor of 10 to 30; more than this is not an export but a trap."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe", "is UTF-16 and not UTF-8; save it again as UTF-8"),
    (b"\xfe\xff", "is UTF-16 and not UTF-8; save it again as UTF-8"),
    (b"%PDF", "is a PDF; export the log from Piano's Console as CSV"),
    (b"\x1f\x8b", "is gzip; unpack it first"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save it as CSV"),
    (b"PAR1", "is Parquet; the subscription log is a CSV"),
)
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class Export:
    """One CSV of the subscription log, on its own or in a ZIP.

    Attributes:
        source: the file the user gave, whose state is watched while it is read.
        stamp: size in bytes, time of change and inode of *source* when it was found.
        member: name inside the ZIP; None for a plain CSV.
        unpacked: where a member of a ZIP was unpacked to.
    """

    source: Path
    stamp: tuple[int, int, int]
    member: str | None = None
    unpacked: Path | None = None

    @property
    def label(self) -> str:
        """What to call it in messages: the name the user knows it by."""
        return f"{self.source}!{self.member}" if self.member else str(self.source)

    @property
    def path(self) -> Path:
        """Where the CSV lies; a member of a ZIP must have been unpacked."""
        return self.unpacked or self.source

    @property
    def megabytes(self) -> float:
        """Size of the CSV in megabytes."""
        return self.path.stat().st_size / 1e6

    def head(self) -> bytes:
        """Read the first bytes, enough for the header row.

        Raises:
            InputRefused: the ZIP is broken.
        """
        if self.member is None:
            with self.source.open("rb") as file:
                return file.read(MAX_HEADER_BYTES)
        with _zip_errors(self.source), zipfile.ZipFile(self.source) as archive, archive.open(self.member) as file:
            return file.read(MAX_HEADER_BYTES)

    def unpack(self, folder: Path) -> Export:
        """Give the export with its CSV on disk: a member of a ZIP is unpacked into *folder*.

        Raises:
            InputRefused: the ZIP is broken, or far larger inside than any export.
        """
        if self.member is None:
            return self
        target = folder / f"{len(list(folder.iterdir()))}.csv"
        with _zip_errors(self.source), zipfile.ZipFile(self.source) as archive:
            member = archive.getinfo(self.member)
            if member.file_size > MAX_ZIP_RATIO * max(member.compress_size, 1):
                msg = f"{self.label}: unpacks to {member.file_size:,} bytes, which no export does."
                raise InputRefused(msg)
            with archive.open(member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        return replace(self, unpacked=target)

    def check_unchanged(self) -> None:
        """Make sure that the file did not change since it was found.

        Raises:
            InputRefused: it did, so somebody is still writing it.
        """
        if not self.source.exists() or _stamp(self.source) != self.stamp:
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


def find(export_path: str) -> list[Path]:
    """List the export files at a path, a folder or a glob, in the order of their names.

    Raises:
        NoInput: nothing is there.
    """
    expanded = Path(export_path).expanduser()
    if expanded.is_file():
        return [expanded]
    if expanded.is_dir():
        found = sorted(p for p in expanded.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            msg = f"export_path: the folder {export_path} holds no .csv and no .zip file. Put the export there."
            raise NoInput(msg)
        return found
    found = sorted(Path(p) for p in glob.glob(str(expanded), recursive=True) if Path(p).is_file())  # noqa: PTH207 - may be absolute
    if not found:
        msg = f"export_path: there is no file at {export_path}. Check the path; a glob needs quotes in a shell."
        raise NoInput(msg)
    return found


def open_exports(paths: Iterable[Path]) -> Iterator[Export]:
    """Yield the CSVs among *paths* and inside the ZIPs among them.

    Raises:
        InputRefused: a ZIP is broken, or holds no CSV.
    """
    for path in paths:
        stamp = _stamp(path)
        with path.open("rb") as file:
            packed = file.read(4) == b"PK\x03\x04"
        if not packed:
            yield Export(path, stamp)
            continue
        with _zip_errors(path), zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith(".csv")]
        if not members:
            msg = f"{path}: is a ZIP without a CSV in it. Is it an Excel workbook? Then save it as CSV."
            raise InputRefused(msg)
        for member in members:
            yield Export(path, stamp, member)


def _stamp(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        msg = f"{path}: is a broken ZIP ({e}). Download the export again."
        raise InputRefused(msg) from e


def read_header(export: Export) -> Header:
    """Read and bind the header row.

    Raises:
        InputRefused: the file is no CSV, has another delimiter, lacks a required column, or has a column twice.
    """
    cells = next(csv.reader([_header_text(export)]), [])
    headers = [cell.strip() for cell in cells]
    found = [column_of(header) for header in headers]
    columns = tuple(
        column if column.name else Column(f"Column {number}", group="unknown")
        for number, column in enumerate(found, start=1)
    )
    header = Header(columns)
    names = header.names
    _check_required(export, headers, names)
    first_seen: dict[str, int] = {}
    for position, name in enumerate(names):
        if name in first_seen:
            one, two = headers[first_seen[name]], headers[position]
            msg = (
                f"{export.label}: line 1: the columns {first_seen[name] + 1} and {position + 1} "
                f"({one!r} and {two!r}) are the same column. Remove one of them."
            )
            raise InputRefused(msg)
        first_seen[name] = position
    return header


def _header_text(export: Export) -> str:
    start = export.head()
    if not start:
        msg = f"{export.label}: is empty. Download the export again."
        raise InputRefused(msg)
    for signature, problem in _SIGNATURES:
        if start.startswith(signature):
            msg = f"{export.label}: {problem}."
            raise InputRefused(msg)
    start = start.removeprefix(codecs.BOM_UTF8)
    if b"\r" in start and b"\n" not in start:
        msg = f"{export.label}: its lines end in CR alone. Save it with LF or CRLF."
        raise InputRefused(msg)
    line = start.split(b"\n", 1)[0].split(b"\r", 1)[0]
    try:
        return line.decode()
    except UnicodeDecodeError as e:
        msg = f"{export.label}: line 1: is not UTF-8 (byte {e.start + 1} of the line). Save the file as UTF-8."
        raise InputRefused(msg) from e


def _check_required(export: Export, headers: list[str], names: tuple[str, ...]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if not missing:
        return
    for delimiter, words in _DELIMITERS.items():
        split = [column_of(cell.strip().strip('"')).name for cell in delimiter.join(headers).split(delimiter)]
        if all(name in split for name in REQUIRED):
            msg = f"{export.label}: line 1: the cells are divided by {words}. Piano divides by commas: save it so."
            raise InputRefused(msg)
    wanted = {"subscription_id": "Subscription ID", "user_id": "User ID (UID)"}
    listed = " and ".join(repr(wanted[name]) for name in missing)
    seen = ", ".join(repr(header[:40]) for header in headers[:5])
    msg = (
        f"{export.label}: line 1: no column {listed}. The first cells are {seen}. "
        "Is it the subscription log (Reports > Logs > Subscriptions) as CSV?"
    )
    raise InputRefused(msg)


@dataclass(frozen=True, slots=True)
class Shape:
    """What one pass over the bytes of a CSV tells.

    Attributes:
        records: rows below the header, as a reader that knows quotes counts them.
        quotes_close: False when the file ends inside quotes.
        ends_with_newline: whether the last row is complete.
    """

    records: int
    quotes_close: bool
    ends_with_newline: bool


def survey(export: Export) -> Shape:
    """Count the rows by quotes and line ends alone, as a second opinion on the parser.

    DuckDB reads a CSV in parallel and guesses where a row starts; a cell that holds line breaks can mislead it.
    The count says so.

    Raises:
        InputRefused: the file holds zero bytes, as after a crash of the disk it was written to.
    """
    records = quotes = number = 0
    line = b"\n"
    with export.path.open("rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, start=1):
            if b'"' in line:
                quotes += line.count(b'"')
            if not quotes & 1 and not line.isspace():
                records += 1
            if b"\0" in line:
                msg = f"{export.label}: line {number}: holds zero bytes, so it is damaged. Download it again."
                raise InputRefused(msg)
    return Shape(
        records=max(records - 1, 0),
        quotes_close=not quotes & 1,
        ends_with_newline=line.endswith((b"\n", b"\r")),
    )
