"""One run from the first row to the acknowledgement: take in, merge, plan, brake, deliver, tell."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from piano_engage_common.progress import Progress
from piano_engage_common.stops import storage_errors

from target_recurly_engage.brake import Brake
from target_recurly_engage.delivery.file import FileDelivery
from target_recurly_engage.intake import Intake
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.plan import make_plan, merge
from target_recurly_engage.summary import Summary
from target_recurly_engage.traits import NAMES, Wording

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping


class Run:
    """A run of the target.

    Args:
        config: the target's settings.
        logger: the target's logger.

    Raises:
        StorageFailed: the ledger cannot be used.
    """

    def __init__(self, config: Mapping[str, Any], logger: logging.Logger) -> None:
        """Open the ledger, settle what a crash left, and be ready for rows."""
        self._logger = logger
        self._runs = Path(config["runs_path"])
        self._now = config.get("as_of")
        self._wording = Wording(
            zone=config["timezone"],
            clear_string=config["clear_string"],
            clear_number=f"{config['clear_number']:g}",
            clear_boolean=str(config["clear_boolean"]).lower(),
            clear_date=config["clear_date"],
        )
        self._brake = Brake(
            min_rows_fraction=config["brake_min_rows_fraction"],
            max_clear_fraction=config["brake_max_clear_fraction"],
        )
        self._progress = Progress(logger)
        started_at = datetime.now(tz=UTC)
        self.summary = Summary(run_id=f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}", started_at=started_at)
        self._ledger = Ledger(Path(config["ledger"]), memory_limit=config["memory_limit"])
        self._delivery = FileDelivery(
            self._ledger, Path(config["output_path"]), logger=logger, progress=self._progress
        )
        self._delivery.settle()
        self._ledger.start_run(self.summary.run_id, started_at)
        self.intake = Intake(self._ledger)

    def finish(self) -> None:
        """Turn the rows that came into traits and deliver those that changed.

        Raises:
            BrakeApplied: the rows look wrong.
            InputRefused: the rows are not complete.
            StorageFailed: a disk is full.
        """
        complete = self.intake.finish()
        self.summary.rows, self.summary.rejected = self.intake.rows, self.intake.blank
        if self.intake.rows:
            self._check_columns()
        with storage_errors(f"working on {self._ledger.path}"):
            with self._ledger.transaction():
                self._make_plan(complete=complete)
            delivered = self._delivery.deliver(self.summary.run_id)
        if delivered:
            self.summary.files.append(delivered)

    def _check_columns(self) -> None:
        told = [trait for trait, has in zip(NAMES, self._told_traits(), strict=True) if has]
        self._brake.check_columns(self.intake.columns, told)

    def _told_traits(self) -> tuple[bool, ...]:
        counts = ", ".join(f'count("{trait}") > 0' for trait in NAMES)
        (row,) = self._ledger.connection.execute(f"SELECT {counts} FROM delivered").fetchall()
        return tuple(row)

    def _make_plan(self, *, complete: bool) -> None:
        now = self._now or self.summary.started_at.isoformat()
        with self._progress.watch("merging subscriptions", self._ledger.connection, size=f"{self.intake.rows:,} rows"):
            self.summary.merge = merge(self._ledger, complete=complete)
        self._brake.check_rows(self.summary.merge, complete=complete)
        with self._progress.watch("comparing traits", self._ledger.connection):
            self.summary.plan = make_plan(self._ledger, self._wording, now=now)
        self._brake.check_clears(self.summary.plan)

    def end(self, status: str, message: str | None = None) -> None:
        """Write the summary and close the ledger; once is enough."""
        if self.summary.finished_at is not None:
            return
        self.summary.status, self.summary.message = status, message
        self.summary.finished_at = datetime.now(tz=UTC)
        try:
            self._ledger.finish_run(self.summary.run_id, status, json.dumps(self.summary.as_dict()))
        except duckdb.Error as e:
            self._logger.warning("the end of the run could not be noted in the ledger: %s", str(e).splitlines()[0])
        finally:
            self._ledger.close()
        self.summary.log(self._logger, self.summary.write(self._runs))
