"""Nights of the target in this process, on the sandbox's population: what an export says, and what becomes of it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import duckdb
from piano_engage_common.stops import BrakeApplied
from piano_engage_sandbox.data import log_rows
from target_recurly_engage.run import Run
from target_recurly_engage.target import TargetRecurlyEngage

from tests.target.conftest import BOOLEANS, DATES, PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from target_recurly_engage.summary import Summary

Record = dict[str, Any]

BEGIN = datetime(2026, 3, 2, 6, tzinfo=UTC)
STAMPS = ("modify_time", *DATES)
GROUPS = ("DEFAULT", "MODIFY_TIME")


def property_of(header: str) -> str:
    """Return the property that a column of the export becomes."""
    return header.split("(", maxsplit=1)[0].strip().lower().replace("-", "_").replace(" ", "_")


@cache
def _export(day: int, rows: int, seed: int) -> tuple[tuple[tuple[str, Any], ...], ...]:
    as_of, since = (BEGIN + timedelta(days=day)).timestamp(), BEGIN.timestamp()
    made = log_rows(rows=rows, seed=seed, since=int(since), as_of=int(as_of), groups=GROUPS)
    return tuple(
        tuple((property_of(header), typed(property_of(header), cell)) for header, cell in row.items())
        for row in made
        if row["User ID (UID)"]
    )


def typed(name: str, cell: str) -> Any:  # noqa: ANN401 - of any type
    """Return a cell as the tap sends it."""
    if not cell:
        return None
    if name in STAMPS:
        return datetime.strptime(cell, "%Y-%m-%d %H:%M:%S %z").isoformat()
    return {"TRUE": True, "FALSE": False}[cell] if name in BOOLEANS else cell


def export(day: int = 0, *, rows: int = 2000, seed: int = 1) -> list[Record]:
    """Return the complete log of a morning, as the tap sends it; the list is the caller's own."""
    return [{name: value for name, value in row if name in PROPERTIES} for row in _export(day, rows, seed)]


def changed(before: Iterable[Record], after: Iterable[Record]) -> list[Record]:
    """Return the rows that an incremental export brings: those whose modify time is another."""
    seen = {row["subscription_id"]: row["modify_time"] for row in before}
    return [row for row in after if seen.get(row["subscription_id"]) != row["modify_time"]]


class Nights:
    """A target whose runs follow one another; each has the morning of its export as its now."""

    def __init__(self, folder: Path, **config: Any) -> None:  # noqa: ANN401 - settings
        """Begin without a ledger."""
        self.folder = folder
        self.config: dict[str, Any] = {
            "ledger": str(folder / "ledger.duckdb"), "output_path": str(folder / "ingest"), "report": False,
            "runs_path": str(folder / "runs"), "timezone": "Europe/Amsterdam", "memory_limit": "300MB",
        } | config  # fmt: skip
        self.stopped: BrakeApplied | None = None

    def accepted(self) -> str:
        """Return the fingerprint that the last message names."""
        return str(self.stopped).rsplit(" ", maxsplit=1)[-1]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the ledger."""
        with duckdb.connect(str(self.folder / "ledger.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def run(
        self,
        rows: Sequence[Record],
        day: int = 0,
        *,
        complete: bool = True,
        **config: Any,  # noqa: ANN401 - settings
    ) -> Summary:
        """Run one night; what the brake said is in `stopped`."""
        as_of = {"as_of": (BEGIN + timedelta(days=day)).isoformat()}
        given = TargetRecurlyEngage(config=self.config | as_of | config).config
        run, self.stopped = Run(given, logging.getLogger("nights")), None
        try:
            intake = run.sources.subscriptions()
            columns = sorted({name for row in rows for name in row})
            intake.expect("subscription_log", {"properties": {name: {} for name in columns or PROPERTIES}})
            for row in rows:
                intake.take_line(json.dumps({"record": row}).encode())
            if complete:
                intake.complete("subscription_log", 1)
            run.finish()
            run.end("finished")
        except BrakeApplied as stop:
            self.stopped = stop
            run.end("stopped", str(stop))
        except BaseException:
            run._ledger.close()
            raise
        return run.summary
