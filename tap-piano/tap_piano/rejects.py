"""Rows that cannot be used: found by the database, placed by line and column, and written to a file.

DuckDB says which row is bad, not in which line of the file it stands. Only when there are bad rows is the file
walked once more to find out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tap_piano.columns import BY_NAME
from tap_piano.survey import csv_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import duckdb

    from tap_piano.files import Export, Header

MAX_SHOWN_VALUE = 80
PERSONAL = "(personal)"
DUPLICATE = "duplicate"
"""Said of a row, where a bad cell's column would stand: another row of its subscription is the one that is kept."""

REASONS = {
    "MISSING COLUMNS": "too few cells",
    "TOO MANY COLUMNS": "too many cells",
    "UNQUOTED VALUE": "quotes",
    "INVALID ENCODING": "not UTF-8",
    "LINE SIZE OVER MAXIMUM": "row too long",
}
"""What DuckDB calls a malformed row, and what we call it."""

_MESSAGES = {
    "too few cells": "has fewer cells than the header",
    "too many cells": "has more cells than the header",
    "quotes": "has quotes that do not close, or text behind them",
    "not UTF-8": "is not UTF-8",
    "row too long": "is longer than 2 MB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One bad cell, or one malformed row.

    Attributes:
        label: the file.
        line: line of the file in which the row starts, counted from 1.
        column: header of the bad cell's column; None for a malformed row.
        reason: in a word or two.
        value: text of the cell, shortened; ``(personal)`` for a personal column.
        row: the selected cells of the row, personal ones masked; None for a malformed row.
        at_end: whether nothing stands behind the row in the file.
    """

    label: str
    line: int
    reason: str
    column: str | None = None
    value: str | None = None
    row: Mapping[str, str] | None = None
    at_end: bool = False

    def __str__(self) -> str:
        """Say it in half a sentence."""
        where = f"{self.label}: line {self.line}"
        if self.column is None:
            return f"{where} {_MESSAGES.get(self.reason, self.reason)}"
        return f"{where}, column {self.column!r}: {self.reason} ({self.value!r})"


def structural_rejects(connection: duckdb.DuckDBPyConnection, scan: int, export: Export) -> list[Reject]:
    """List the rows of an export that the CSV reader could not take apart, in the order of the file."""
    found = connection.sql(
        f"SELECT line_byte_position, any_value(error_type ORDER BY error_type) FROM malformed_{scan} "
        "GROUP BY line_byte_position ORDER BY line_byte_position"
    ).fetchall()
    return list(_place(export, [(int(position) - 1, str(kind)) for position, kind in found]))


def _place(export: Export, found: Sequence[tuple[int, str]]) -> Iterator[Reject]:
    line, at = 1, 0
    size = export.path.stat().st_size
    with export.path.open("rb") as file:
        for position, kind in found:
            while at < position:
                chunk = file.read(min(position - at, 1 << 20))
                line += chunk.count(b"\n")
                at += len(chunk)
            while (blank := file.read(1)) in {b"\r", b"\n"}:
                line += blank == b"\n"
                at += 1
            file.seek(at)
            reason = REASONS.get(kind, kind.lower())
            at_end = reason in {"too few cells", "quotes"} and _nothing_behind(file, size)
            file.seek(at)
            yield Reject(label=export.label, line=line, reason=reason, at_end=at_end)


def _nothing_behind(file: Any, size: int) -> bool:  # noqa: ANN401 - a binary file; its type is private
    file.readline()
    return bool(file.tell() >= size)


def cell_rejects(
    export: Export,
    header: Header,
    rows: Mapping[int, str],
    malformed: Iterable[Reject],
    selected: Sequence[str],
) -> Iterator[Reject]:
    """Yield a reject for each bad cell of an export.

    Args:
        export: the file.
        header: its header.
        rows: ordinal of the row among those that could be parsed → names of the bad columns, by commas, or
            ``DUPLICATE``.
        malformed: the rows that could not be parsed.
        selected: property names that may be shown.
    """
    if not rows:
        return
    wanted = dict(rows)
    for ordinal, line, cells in _walk(export, header, {reject.line for reject in malformed}):
        problems = wanted.pop(ordinal, None)
        if problems is None:
            continue
        by_name = dict(zip(header.names, cells, strict=True))
        row = {name: _mask(name, by_name[name]) for name in header.names if name in selected}
        for problem in problems.split(","):
            column = "subscription_id" if problem == DUPLICATE else problem
            yield Reject(
                label=export.label,
                line=line,
                reason=_reason(problem),
                column=header.columns[header.names.index(column)].header,
                value=_mask(column, by_name[column]),
                row=row,
            )
        if not wanted:
            return


def _reason(problem: str) -> str:
    if problem == DUPLICATE:
        return "the same subscription stands again in this file with other content, and that row is kept"
    if problem in {"subscription_id", "user_id"}:
        return "is blank"
    return f"is no {BY_NAME[problem].kind}"


def _mask(name: str, value: str) -> str:
    column = BY_NAME.get(name)
    if column is not None and column.personal and value:
        return PERSONAL
    return value[:MAX_SHOWN_VALUE].encode(errors="replace").decode()


def _walk(export: Export, header: Header, skip_lines: set[int]) -> Iterator[tuple[int, int, list[str]]]:
    """Yield ordinal, first line and cells of the rows that the database could parse."""
    ordinal = 0
    with csv_rows(export) as rows:
        next(rows)
        for line, cells in rows:
            if cells and line not in skip_lines and len(cells) == len(header.names):
                yield ordinal, line, cells
                ordinal += 1


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
