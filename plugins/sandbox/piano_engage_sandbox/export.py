"""Whole exports: which readers are in one, made in one or several processes, written to a file as they come.

A file is made in slices of readers, in order of their numbers, so it is the same for any number of processes, and only
a few slices are in memory at a time.
"""

from __future__ import annotations

import sys
import zipfile
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, TypedDict, Unpack

from piano_engage_sandbox import columns
from piano_engage_sandbox.clock import zone
from piano_engage_sandbox.lives import FIRST_ARRIVAL, LAST_ARRIVAL, Lives
from piano_engage_sandbox.log import LogRows, csv_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

SLICE: Final = 1024
"""Readers made at a time; about a quarter of them have come by 2026. Bigger slices are slower: caches overflow."""
BOM: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"


class ExportError(ValueError):
    """An export that cannot be made as asked for."""


class Options(TypedDict, total=False):
    """What `Export` takes, as keyword arguments of `write_log` and `log_rows`."""

    rows: int | None
    readers: int | None
    seed: int
    as_of: datetime | str
    since: datetime | str | None
    aid: str
    groups: tuple[str, ...]
    timezone: str
    timestamps: Literal["piano", "dashboard"]
    crlf: bool
    bom: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One export, said in full. Date-times without an offset are local to `timezone`.

    Either `rows` (2,000 if neither is given), counted at `since`, or `readers`: numbers 0 to `readers` - 1, most of
    whom have not subscribed yet (arrivals spread over 2018 to 2034).
    """

    rows: int | None = None
    readers: int | None = None
    seed: int = 1
    as_of: datetime | str = "2026-03-01T04:00"
    since: datetime | str | None = None
    aid: str = "ExAmPlE4a1"
    groups: tuple[str, ...] = (columns.DEFAULT,)
    timezone: str = "Europe/Amsterdam"
    timestamps: Literal["piano", "dashboard"] = "piano"
    crlf: bool = False
    bom: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be: raises ExportError, ClockError or GroupError."""
        columns.ordered_groups(self.groups)
        if self.rows is not None and self.readers is not None:
            msg = "give rows or readers, not both"
            raise ExportError(msg)
        for name, number in (("rows", self.rows), ("readers", self.readers)):
            if number is not None and number < 0:
                msg = f"{name} must not be negative: {number}"
                raise ExportError(msg)
        for name, moment in (("as_of", self.seen_at), ("since", self.counted_at)):
            if not FIRST_ARRIVAL + 365 * 86_400 < moment < LAST_ARRIVAL:
                msg = f"{name} must lie between 2019 and 2034, where lives are told: {getattr(self, name)}"
                raise ExportError(msg)
        if self.seen_at < self.counted_at:
            msg = f"as_of {self.as_of} lies before since {self.since}: the rows are counted at the earlier moment"
            raise ExportError(msg)

    @property
    def seen_at(self) -> int:
        """The moment of the export."""
        return self._moment(self.as_of)

    @property
    def counted_at(self) -> int:
        """The moment at which the file has `rows` rows."""
        return self.seen_at if self.since is None else self._moment(self.since)

    def _moment(self, when: datetime | str) -> int:
        civil = zone(self.timezone)
        return civil.parse(when) if isinstance(when, str) else civil.of(when)


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows of some readers: how many there were at the moment of counting, how many there are now, and their text."""

    counted: int
    rows: int
    text: str


def write_log(
    path: str | Path, *, jobs: int = 1, progress: Callable[[int], None] | None = None, **options: Unpack[Options]
) -> int:
    """Write an export to a file and return its number of rows; a `.zip` name packs it, `-` is standard output.

    The file appears under its name once it is complete. `progress` is called with the rows so far. Raises ExportError,
    ClockError and GroupError for options that make no sense.
    """
    if jobs < 1:
        msg = f"jobs must be 1 or more: {jobs}"
        raise ExportError(msg)
    export = Export(**options)
    written = 0
    with _sink(path) as sink:
        head = csv_lines([columns.headers(export.groups)], _line_end(export))
        sink.write(((BOM if export.bom else "") + head).encode())
        for part in _parts(export, jobs):
            sink.write(part.text.encode())
            written += part.rows
            if progress is not None:
                progress(written)
    return written


def log_rows(**options: Unpack[Options]) -> Iterator[dict[str, str]]:
    """Give the rows of an export one by one, as header → cell text."""
    export = Export(**options)
    names = columns.headers(export.groups)
    maker = _maker(export)
    for _, rows in _chosen(export, maker):
        for row in rows:
            yield dict(zip(names, row, strict=True))


class _Maker:
    """Makes the rows of single readers, and counts them at the moment of counting."""

    def __init__(self, export: Export) -> None:
        self.lives = Lives(seed=export.seed, aid=export.aid, zone=zone(export.timezone))
        self.seen_at, self.counted_at = export.seen_at, export.counted_at
        dashboard = export.timestamps == "dashboard"
        self.log = LogRows(self.lives, self.seen_at, groups=export.groups, dashboard=dashboard)

    def of(self, reader: int) -> tuple[int, list[list[str]]]:
        """Give the number of a reader's rows when counted, and his rows now."""
        life = self.lives.life(reader, self.seen_at)
        rows = self.log.of(life) if life else []
        if self.seen_at == self.counted_at:
            return len(rows), rows
        earlier = self.lives.life(reader, self.counted_at)
        return len(earlier.fates) if earlier else 0, rows


@lru_cache(maxsize=2)
def _maker(export: Export) -> _Maker:
    """Keep a maker from one slice to the next in a process."""
    return _Maker(export)


def _chosen(
    export: Export, maker: _Maker, first: int = 0, left: int | None = None
) -> Iterator[tuple[int, list[list[str]]]]:
    """Go through readers in order until the export is full; one with more rows than are left is passed over."""
    if export.readers is not None:
        yield from (maker.of(reader) for reader in range(first, export.readers))
        return
    left = _wanted(export) if left is None else left
    while left > 0:
        counted, rows = maker.of(first)
        first += 1
        if counted <= left:
            left -= counted
            yield counted, rows


def _wanted(export: Export) -> int:
    return 2000 if export.rows is None else export.rows


def _slice(export: Export, first: int, last: int) -> _Slice:
    """Make the text of readers first to last - 1."""
    maker = _maker(export)
    return _join(export, [maker.of(reader) for reader in maker.lives.arrived(first, last, maker.seen_at)])


def _join(export: Export, made: list[tuple[int, list[list[str]]]]) -> _Slice:
    rows = [row for _, of_reader in made for row in of_reader]
    return _Slice(sum(counted for counted, _ in made), len(rows), csv_lines(rows, _line_end(export)))


def _line_end(export: Export) -> str:
    return "\r\n" if export.crlf else "\n"


def _parts(export: Export, jobs: int) -> Iterator[_Slice]:
    """Give the export slice by slice; the one that would overfill it is made again, reader by reader."""
    if export.readers is not None:
        yield from _slices(export, jobs)
        return
    left = _wanted(export)
    for number, part in enumerate(_slices(export, jobs) if left else ()):
        if part.counted >= left:
            yield _join(export, list(_chosen(export, _maker(export), number * SLICE, left)))
            return
        left -= part.counted
        yield part


def _slices(export: Export, jobs: int) -> Iterator[_Slice]:
    """Give slices in order, for ever if the number of readers is open; a few are made ahead when there are helpers."""
    end = sys.maxsize if export.readers is None else export.readers
    spans = ((first, min(first + SLICE, end)) for first in range(0, end, SLICE))
    if jobs == 1:
        yield from (_slice(export, first, last) for first, last in spans)
        return
    waiting: deque[Future[_Slice]] = deque()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as helpers:
        try:
            for first, last in spans:
                waiting.append(helpers.submit(_slice, export, first, last))
                if len(waiting) > jobs * 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            helpers.shutdown(cancel_futures=True)


@contextmanager
def _sink(path: str | Path) -> Iterator[IO[bytes]]:
    """Open the place to write to; a file takes its name only when it is complete."""
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    partial = target.with_name(f"{target.name}.part")
    try:
        if target.suffix.lower() == ".zip":
            entry = zipfile.ZipInfo(f"{target.stem}.csv")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(partial, "w") as archive, archive.open(entry, "w", force_zip64=True) as sink:
                yield sink
        else:
            with partial.open("wb") as sink:
                yield sink
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
