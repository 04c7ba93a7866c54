"""Files of traits, by the rules of the S3 route (reference sheet of Engage, 2).

A file is read twice: first to see whether it can be read at all and which row of a repeated user counts, so that what
is refused changes nothing; then row by row, so that its size does not matter.
"""

from __future__ import annotations

import csv
import io
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox.engage.values import CLEAR, Clear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from piano_engage_sandbox.switches import EngageSwitches

USER_ID: Final = "user_id"
PUSH_TOKENS: Final = {"Id", "ChannelType", "Address", "User.UserId"}
"""The header of the other kind of file."""
ERRORS_KEPT: Final = 100
HEAPS: Final = 256
"""Ids are compared in so many heaps: sorting one takes milliseconds, and nothing else runs during a sort."""

Properties = dict[str, "str | Clear"]
Row = tuple[str, Properties]


class FileRefused(ValueError):  # noqa: N818 - an outcome
    """A file that changes nothing, and why."""


class PushTokens(Exception):  # noqa: N818 - another kind of file, no fault
    """A file of push tokens."""


@dataclass(slots=True)
class Report:
    """What Pulse's App Messages would say of a file."""

    rows: int = 0
    skipped: int = 0
    dropped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def skip(self, line: int, why: str) -> None:
        """Note a row that is not processed."""
        self.skipped += 1
        self.note(f"line {line}: {why}")

    def note(self, error: str) -> None:
        """Note an error, unless there are plenty."""
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(error)


@dataclass(slots=True)
class Plan:
    """What the first reading finds out."""

    columns: list[tuple[int, str]]
    """Place and name of the columns that are processed, without the first."""
    width: int
    counting: dict[int, int]
    """Of users with several rows, by the hash of their id: the number of the row that counts, from 1."""


def survey(opened: Callable[[], BinaryIO], switches: EngageSwitches, report: Report) -> Plan:
    """Read a file for the first time; raises FileRefused and PushTokens."""
    try:
        with _text(opened, switches) as text:
            reader = csv.reader(text, strict=True)
            header = next(reader, None)
            if not header:
                msg = "the file is empty: it needs a header row"
                raise FileRefused(msg)
            return Plan(_columns(header, report), len(header), _counting(reader, len(header), switches))
    except UnicodeDecodeError as e:
        msg = f"the file is not UTF-8: byte {e.object[e.start]:#04x}"
        raise FileRefused(msg) from e
    except csv.Error as e:
        msg = f"the file is no CSV: {e}"
        raise FileRefused(msg) from e


def rows(opened: Callable[[], BinaryIO], plan: Plan, switches: EngageSwitches, report: Report) -> Iterator[Row]:
    """Read a surveyed file: user id and what is written of it, row by row. What is wrong goes into the report."""
    with _text(opened, switches) as text:
        reader = csv.reader(text, strict=True)
        next(reader)
        for cells in filter(None, reader):
            report.rows += 1
            if len(cells) != plan.width:
                report.skip(reader.line_num, f"{len(cells)} cells where the header has {plan.width}")
                continue
            user_id = _cell(cells[0], switches)
            if not user_id:
                report.skip(reader.line_num, "no user_id")
            elif plan.counting.get(hash(user_id), report.rows) == report.rows:
                yield user_id, _properties(cells, plan, switches)


def _text(opened: Callable[[], BinaryIO], switches: EngageSwitches) -> io.TextIOWrapper:
    """Open a file as text. A byte order mark that is not taken away stays before the first header."""
    encoding = "utf-8-sig" if switches.csv_byte_order_mark == "accept" else "utf-8"
    return io.TextIOWrapper(opened(), encoding=encoding, newline="")


def _columns(header: list[str], report: Report) -> list[tuple[int, str]]:
    """Choose the columns that are processed."""
    if PUSH_TOKENS.issubset(header):
        raise PushTokens
    if header[0] != USER_ID:
        msg = f"the first column must be {USER_ID}, not {header[0]!r}"
        raise FileRefused(msg)
    columns: dict[str, int] = {}
    for place, name in enumerate(header[1:], 1):
        why = _unfit(name, columns)
        if why:
            report.dropped.append(name)
            report.note(f"column {place + 1}, {name!r}: {why}")
        else:
            columns[name] = place
    return [(place, name) for name, place in columns.items()]


def _unfit(name: str, before: dict[str, int]) -> str:
    """Say why a column is not processed; nothing if it is."""
    if not name:
        return "a header without a name; the column is not processed"
    if " " in name:
        return "a header must have no space; the column is not processed"
    if name in before or name == USER_ID:
        return "the header stands there twice; only the first column is processed"
    return ""


def _counting(reader: Iterator[list[str]], width: int, switches: EngageSwitches) -> dict[int, int]:
    """Find which row of a repeated user counts, by the hash of the id.

    Numbers instead of texts keep a million rows in 16 MB; that two ids of a million share a hash of 64 bits has a
    chance of one in tens of millions.
    """
    heaps: list[tuple[array[int], array[int]]] = [(array("q"), array("q")) for _ in range(HEAPS)]
    for number, cells in enumerate(filter(None, reader), 1):
        if len(cells) == width and (user_id := _cell(cells[0], switches)):
            hashes, numbers = heaps[hash(user_id) % HEAPS]
            hashes.append(hash(user_id))
            numbers.append(number)
    counting: dict[int, int] = {}
    for hashes, numbers in heaps:
        repeated = {one for one, other in pairwise(sorted(hashes)) if one == other}
        pairs = [(h, n) for h, n in zip(hashes, numbers, strict=True) if h in repeated]
        if pairs and switches.csv_repeated_user == "refuse":
            first, second, *_ = (n for h, n in pairs if h == pairs[0][0])
            msg = f"rows {first} and {second} are of the same user"
            raise FileRefused(msg)
        counting.update(pairs if switches.csv_repeated_user == "last" else reversed(pairs))
    return counting


def _cell(text: str, switches: EngageSwitches) -> str:
    return text.strip() if switches.csv_trim else text


def _properties(cells: list[str], plan: Plan, switches: EngageSwitches) -> Properties:
    """Give what a row writes; values stay texts."""
    properties: Properties = {}
    for place, name in plan.columns:
        text = _cell(cells[place], switches)
        if text or switches.csv_empty == "store":
            properties[name] = text
        elif switches.csv_empty == "clear":
            properties[name] = CLEAR
    return properties
