"""Rows that cannot be used: found by the database, placed by line and column, and written to a file.

DuckDB says which row is bad, not in which line of the file it stands. Only when there are bad rows is the file
walked once more to find out.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from piano_engage_common.ids import problem_of_id

from tap_piano.casts import EXPECTED
from tap_piano.columns import BY_NAME, REQUIRED
from tap_piano.rows import QUOTES
from tap_piano.sifting import HEADER_AGAIN, TOO_FEW, TOO_MANY, cells_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tap_piano.columns import Column
    from tap_piano.files import Header

MAX_SHOWN_VALUE = 80
PERSONAL = "(personal)"
DUPLICATE = "duplicate"
"""Said of a row, where a bad cell's column would stand: another row of its subscription is the one that is kept."""

REASONS = {"INVALID ENCODING": "not UTF-8", "LINE SIZE OVER MAXIMUM": "row too long"}
"""What DuckDB calls a row that it cannot read although it is well formed, and what we call it."""

_MESSAGES = {
    TOO_FEW: "has fewer cells than the header",
    TOO_MANY: "has more cells than the header",
    QUOTES: "has quotes that do not close, or text behind them, or blanks beside them",
    HEADER_AGAIN: "is the header again",
    "not UTF-8": "is not UTF-8",
    "row too long": "is longer than 2 MB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One bad cell, or one malformed row.

    Attributes:
        label: the file.
        line: line of the file in which the row starts, counted from 1; None where it could not be found.
        column: header of the bad cell's column; None for a malformed row.
        reason: in a word or two.
        value: text of the cell, shortened; ``(personal)`` for a personal column.
        expected: the form that the cell should have.
        row: the selected cells of the row, personal ones masked; None for a malformed row.
    """

    label: str
    line: int | None
    reason: str
    column: str | None = None
    value: str | None = None
    expected: str | None = None
    row: Mapping[str, str] | None = None

    def __str__(self) -> str:
        """Return it as half a sentence; a damaged id of a user is not shown."""
        where = f"{self.label}: {'a row that could not be found' if self.line is None else f'line {self.line}'}"
        if self.column is None:
            return f"{where} {_MESSAGES.get(self.reason, self.reason)}"
        shown = "" if self.value is None or self.column == BY_NAME["user_id"].header else f" ({self.value!r})"
        wanted = f"; write it like {self.expected}" if self.expected else ""
        return f"{where}, column {self.column!r}: {self.reason}{shown}{wanted}"


class Bad(NamedTuple):
    """The rows of one file that the database does not hand on, as it lists them.

    Attributes:
        unread: byte position and kind of each row that it could not read.
        failed: ordinal of a row among those it could read, and the names of its bad columns, by commas, or
            ``DUPLICATE``.
    """

    unread: Sequence[tuple[int, str]]
    failed: Mapping[int, str]


def find_rejects(
    read: Iterable[ReadRow], label: str, header: Header, bad: Bad, selected: Sequence[str]
) -> Iterator[Reject]:
    """Yield a reject for each malformed row, each one that the database could not read, and each bad cell.

    What is bad is known before; only where that is in the file is found out here, and what is not found is named all
    the same.

    Args:
        read: the rows of the file.
        label: what to call the file.
        header: its header.
        bad: the rows that the database lists.
        selected: property names that may be shown.
    """
    unread, failed = deque(sorted(bad.unread)), dict(bad.failed)
    ordinal = 0
    for row in read:
        if row.problem is not None:
            yield Reject(label=label, line=row.line, reason=row.problem)
        elif unread and unread[0][0] < row.end:
            yield Reject(label=label, line=row.line, reason=REASONS.get(unread.popleft()[1], QUOTES))
        else:
            if (problems := failed.pop(ordinal, None)) is not None:
                yield from _cell_rejects(label, header, row, problems, selected)
            ordinal += 1
    for _, kind in unread:
        yield Reject(label=label, line=None, reason=REASONS.get(kind, kind.lower()))
    for problems in failed.values():
        for problem in problems.split(","):
            yield Reject(label=label, line=None, reason=_reason(problem), column=_column(header, problem).header)


class ReadRow(NamedTuple):
    """One row of an export that is not blank.

    Attributes:
        line: line of the export in which it starts.
        raw: its bytes.
        end: byte position behind its cells in the file that the database read, which may count the line end before a
            row as part of it.
        problem: why the database was not given it; None for a row that it was given.
    """

    line: int
    raw: bytes
    end: int
    problem: str | None


def _cell_rejects(label: str, header: Header, row: ReadRow, problems: str, selected: Sequence[str]) -> Iterator[Reject]:
    by_name = dict(zip(header.names, cells_of(row.raw), strict=False))
    shown = {name: _mask(name, by_name[name]) for name in header.names if name in selected}
    for problem in problems.split(","):
        column = _column(header, problem)
        yield Reject(
            label=label,
            line=row.line,
            reason=_reason(problem, by_name[column.name]),
            column=column.header,
            value=_mask(column.name, by_name[column.name]),
            expected=EXPECTED.get(column.kind) if problem != DUPLICATE else None,
            row=shown,
        )


def _column(header: Header, problem: str) -> Column:
    return header.columns[header.names.index("subscription_id" if problem == DUPLICATE else problem)]


def _reason(problem: str, cell: str | None = None) -> str:
    if problem == DUPLICATE:
        return "the same subscription stands again in this file with other content, and that row is kept"
    if problem in REQUIRED:
        return "is no id" if cell is None else problem_of_id(cell) or "is no id"
    return f"is no {BY_NAME[problem].kind}"


def _mask(name: str, value: str) -> str:
    column = BY_NAME.get(name)
    if column is not None and column.personal and value:
        return PERSONAL
    return value[:MAX_SHOWN_VALUE].encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class RejectsFile:
    """Writes rejects as JSON lines, one file a run, into a folder that is made when it is needed."""

    folder: Path

    def write(self, rejects: Iterable[Reject]) -> Path:
        """Write all *rejects* and return the file's path.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        moment = datetime.now(tz=UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self.folder / f"subscription_log-{moment}.jsonl"
        unfinished = path.with_suffix(".part")
        with unfinished.open("w", encoding="utf-8") as file:
            for reject in rejects:
                entry = {
                    "file": reject.label,
                    "line": reject.line,
                    "column": reject.column,
                    "reason": reject.reason,
                    "value": reject.value,
                    "row": reject.row,
                }
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        unfinished.replace(path)
        return path
