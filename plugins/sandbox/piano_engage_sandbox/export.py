"""Whole exports: which readers are in one, made in one or several processes, written to a file as they come.

A file is made in slices of readers, in order of their numbers, so it is the same for any number of processes, and only
a few slices are in memory at a time.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, TypedDict, Unpack

from piano_engage_sandbox import columns
from piano_engage_sandbox.clock import DAY, zone
from piano_engage_sandbox.lives import FIRST_ARRIVAL, LAST_ARRIVAL, Life, Lives
from piano_engage_sandbox.log import LogRows, csv_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from piano_engage_sandbox.lives import Fate

SLICE: Final = 1024
"""Readers made at a time; about a quarter of them have come by 2026. Bigger slices are slower: caches overflow."""
BOM: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
EPOCH: Final = date(1970, 1, 1)


class ExportError(ValueError):
    """An export that cannot be made as asked for."""


class Options(TypedDict, total=False):
    """What `Export` takes, as keyword arguments of `write_log` and `log_rows`."""

    rows: int | None
    readers: int | None
    seed: int
    as_of: datetime | str | int
    since: datetime | str | int | None
    start_date_from: str | None
    start_date_to: str | None
    touched: bytes
    aid: str
    groups: tuple[str, ...]
    timezone: str
    timestamps: Literal["piano", "dashboard"]
    crlf: bool
    bom: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One export, said in full. Date-times without an offset are local to `timezone`; numbers are epoch seconds.

    Either `rows` (2,000 if neither is given), counted at `since`, or `readers`: numbers 0 to `readers` - 1, most of
    whom have not subscribed yet (arrivals spread over 2018 to 2034).

    `start_date_from` and `start_date_to` (yyyy-MM-dd, inclusive) are held against the Start date as the file shows it.
    They choose rows after those were counted. `touched` are lives that went another way than the generator has it, as
    `snapshot` gives them.
    """

    rows: int | None = None
    readers: int | None = None
    seed: int = 1
    as_of: datetime | str | int = "2026-03-01T04:00"
    since: datetime | str | int | None = None
    start_date_from: str | None = None
    start_date_to: str | None = None
    touched: bytes = b""
    aid: str = "ExAmPlE4a1"
    groups: tuple[str, ...] = (columns.DEFAULT,)
    timezone: str = "Europe/Amsterdam"
    timestamps: Literal["piano", "dashboard"] = "piano"
    crlf: bool = False
    bom: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be: raises ExportError, ClockError or GroupError."""
        columns.ordered_groups(self.groups)
        _ = self.days
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

    @property
    def days(self) -> tuple[int, int]:
        """The first and the last day of Start date, counted from 1970; raises ExportError for what is no date."""
        return _day("start_date_from", self.start_date_from, 0), _day("start_date_to", self.start_date_to, sys.maxsize)

    def _moment(self, when: datetime | str | int) -> int:
        if isinstance(when, int):
            return when
        civil = zone(self.timezone)
        return civil.parse(when) if isinstance(when, str) else civil.of(when)


def _day(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    try:
        return (date.fromisoformat(text) - EPOCH).days
    except ValueError as e:
        msg = f"{name} must be a date like 2026-03-01: {text!r}"
        raise ExportError(msg) from e


def snapshot(touched: Mapping[int, list[Fate]]) -> bytes:
    """Keep lives as they are now, by reader: all fates of each, also those still to come. Nothing for no lives."""
    return pickle.dumps(dict(touched)) if touched else b""


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
    return write_export(path, Export(**options), jobs=jobs, told=progress and (lambda rows, _: progress(rows)))


def write_export(
    path: str | Path, export: Export, *, jobs: int = 1, told: Callable[[int, int], None] | None = None
) -> int:
    """Write an export as `write_log` does. `told` is called with the rows so far, and those counted at `since`.

    The second number reaches `rows` of the export at its end, whatever was chosen by date: it tells how far it is.
    """
    written = counted = 0
    with _sink(path) as sink:
        head = csv_lines([columns.headers(export.groups)], _line_end(export))
        sink.write(((BOM if export.bom else "") + head).encode())
        for part in _parts(export, jobs):
            sink.write(part.text.encode())
            written += part.rows
            counted += part.counted
            if told is not None:
                told(written, counted)
    return written


def log_rows(**options: Unpack[Options]) -> Iterator[dict[str, str]]:
    """Give the rows of an export one by one, as header → cell text."""
    export = Export(**options)
    names = columns.headers(export.groups)
    maker = _Maker(export)
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
        self._days = export.days if export.start_date_from or export.start_date_to else None
        self._touched: dict[int, list[Fate]] = pickle.loads(export.touched) if export.touched else {}  # noqa: S301 - our own

    def of(self, reader: int) -> tuple[int, list[list[str]]]:
        """Give the number of a reader's rows when counted, and his rows now."""
        life = earlier = self.lives.life(reader, self.seen_at)
        rows = self._rows(reader, life)
        if self.seen_at != self.counted_at:
            earlier = self.lives.life(reader, self.counted_at)
        return len(earlier.fates) if earlier else 0, rows

    def _rows(self, reader: int, life: Life | None) -> list[list[str]]:
        """Write a life, with what actions made of it, as far as its dates are asked for."""
        if reader in self._touched:
            shown = [fate for fate in self._touched[reader] if fate.create <= self.seen_at < fate.deleted_at]
            life = Life(reader, self.lives.whole(reader).bits, shown)
        if life and self._days:
            first, last = self._days
            within = [fate for fate in life.fates if first <= self.lives.zone.wall(fate.start) // DAY <= last]
            life = Life(reader, life.bits, within)
        return self.log.of(life) if life and life.fates else []


@lru_cache(maxsize=2)
def _maker(export: Export) -> _Maker:
    """Keep a maker from one slice to the next in a helper. Never shared by threads: making is no work for two."""
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


def _slice(export: Export, first: int, last: int, maker: _Maker | None = None) -> _Slice:
    """Make the text of readers first to last - 1; in a helper with the maker that is kept there."""
    maker = maker or _maker(export)
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
            yield _join(export, list(_chosen(export, _Maker(export), number * SLICE, left)))
            return
        left -= part.counted
        yield part


def _slices(export: Export, jobs: int) -> Iterator[_Slice]:
    """Give slices in order, for ever if the number of readers is open; a few are made ahead when there are helpers."""
    end = sys.maxsize if export.readers is None else export.readers
    spans = ((first, min(first + SLICE, end)) for first in range(0, end, SLICE))
    if jobs == 1:
        maker = _Maker(export)
        yield from (_slice(export, first, last, maker) for first, last in spans)
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
