"""One run from the first row to the acknowledgement: take in, merge, plan, brake, deliver, tell."""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from piano_engage_common.duck import name
from piano_engage_common.progress import Progress
from piano_engage_common.stops import PartlyRejected, RunStopped, storage_errors
from piano_engage_common.transport import Patience, RunEnds, Stopping, Transport

from target_recurly_engage.brake import Brake
from target_recurly_engage.delivery.file import FileDelivery
from target_recurly_engage.delivery.ingest import IngestDelivery, Requests
from target_recurly_engage.delivery.s3 import S3Delivery, bucket_of
from target_recurly_engage.engage import PATH, IngestClient, access_of
from target_recurly_engage.intake import Intake
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.plan import make_plan, merge
from target_recurly_engage.summary import Summary
from target_recurly_engage.traits import TRAITS, Trait, Wording

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from target_recurly_engage.delivery.csvs import CsvDelivery


def wording_of(config: Mapping[str, Any]) -> Wording:
    """Read from the target's settings how values are written."""
    return Wording(
        zone=config["timezone"],
        clear_string=config["clear_string"],
        clear_number=f"{Decimal(str(config['clear_number'])).normalize():f}",
        clear_boolean=str(config["clear_boolean"]).lower(),
        clear_date=date.fromisoformat(config["clear_date"]).isoformat(),
    )


class Run:
    """A run of the target.

    Args:
        config: the target's settings.
        logger: the target's logger.

    Attributes:
        delivering: traits are on their way, so this must not be broken off any more.

    Raises:
        StorageFailed: the ledger cannot be used.
        AccessRefused, ConfigRefused, Outage: nothing could be delivered.
    """

    def __init__(self, config: Mapping[str, Any], logger: logging.Logger) -> None:
        """Open the ledger, settle what a crash left, and be ready for rows."""
        self.delivering = False
        self._logger = logger
        self._runs = Path(config["runs_path"])
        self._now = datetime.fromisoformat(config["as_of"]).isoformat() if config.get("as_of") else None
        self._wording = wording_of(config)
        self._brake = Brake(
            min_rows_fraction=config["brake_min_rows_fraction"],
            max_clear_fraction=config["brake_max_clear_fraction"],
        )
        self._progress = Progress(logger)
        self._max_reject_fraction = float(config["max_reject_fraction"])
        started_at = datetime.now(tz=UTC)
        self.summary = Summary(run_id=f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}", started_at=started_at)
        self._ledger = Ledger(Path(config["ledger"]), memory_limit=config["memory_limit"])
        try:
            self._delivery = self._delivery_of(config)
            self._delivery.check()
            self._delivery.settle()
        except BaseException:
            self._ledger.close()
            raise
        self._ledger.start_run(self.summary.run_id, started_at)
        self.intake = Intake(self._ledger)

    def _ingest_delivery(self, config: Mapping[str, Any]) -> IngestDelivery:
        access, concurrency = access_of(config), int(config["concurrency"])
        transport = Transport(
            patience=Patience(
                timeout=float(config["request_timeout"]),
                attempts=int(config["retry_attempts"]),
                wait=float(config["retry_wait"]),
                total=float(config["retry_seconds"]),
            ),
            rate=float(config["requests_per_second"]),
            logger=self._logger,
            stopping=Stopping(),
            at_once=concurrency,
            afterwards="what Engage took is acknowledged, the next run sends the rest",
        )
        return IngestDelivery(
            self._ledger,
            IngestClient(transport, access),
            location=f"{access.url.rstrip('/')}{PATH}",
            concurrency=concurrency,
            typed=config["ingest_values"] == "typed",
            logger=self._logger,
            progress=self._progress,
        )

    def _delivery_of(self, config: Mapping[str, Any]) -> CsvDelivery | IngestDelivery:
        if config["delivery"] == IngestDelivery.channel:
            return self._ingest_delivery(config)
        if config["delivery"] == S3Delivery.channel:
            return S3Delivery(self._ledger, bucket_of(config), logger=self._logger, progress=self._progress)
        folder = Path(config["output_path"])
        return FileDelivery(self._ledger, folder, logger=self._logger, progress=self._progress)

    def finish(self) -> None:
        """Turn the rows that came into traits and deliver those that changed.

        Raises:
            BrakeApplied: the rows look wrong.
            ConfigRefused: the rows belong to another application than the ledger.
            InputRefused: the rows are not complete.
            StorageFailed: a disk is full.
        """
        complete = self.intake.finish()
        self.summary.rows, self.summary.rejected = self.intake.rows, self.intake.blank
        if self.intake.rows:
            self._check_columns()
        delivery_id = uuid.uuid4().hex
        with storage_errors(f"working on {self._ledger.path}"):
            with self._ledger.transaction():
                self._make_plan(complete=complete, delivery_id=delivery_id)
            self.delivering = True
            delivered = self._delivery.deliver(self.summary.run_id, delivery_id)
        if isinstance(delivered, Requests):
            self._tell(delivered)
        elif delivered:
            self.summary.files.append(delivered)

    def _tell(self, requests: Requests) -> None:
        self.summary.requests = requests
        for reason, times in requests.reasons.items():
            self._logger.warning("Engage rejected %d reader(s) with %s; they are tried again later", times, reason)
        if requests.interrupted:
            raise RunEnds

    def check_rejects(self) -> None:
        """Say whether so many readers were rejected that somebody has to look; they are kept either way.

        Raises:
            PartlyRejected: so many.
        """
        requests = self.summary.requests
        if requests is None:
            return
        fresh = requests.rejected - requests.again
        if fresh <= self._max_reject_fraction * requests.users:
            return
        most = max(requests.reasons, key=lambda reason: requests.reasons[reason])
        msg = (
            f"Engage rejected {fresh:,} of {requests.users:,} readers, more than max_reject_fraction "
            f"allows; most of them with: {most}. They are kept in the ledger's table rejects and "
            "tried again later; all others were delivered."
        )
        raise PartlyRejected(msg)

    def interrupt(self) -> None:
        """Have the delivery end as soon as what is in flight has landed; for the handler of a signal."""
        self._delivery.interrupt()

    def _check_columns(self) -> None:
        absent = [trait for trait in TRAITS if trait.name not in self.intake.columns]
        self._brake.check_columns(trait.name for trait in absent if self._was_told(trait))

    def _was_told(self, trait: Trait) -> bool:
        """Whether Engage has a value of the trait for anybody, other than the one that clears it."""
        query = f"SELECT count(*) FROM delivered WHERE {name(trait.name)} <> ?"
        return self._ledger.count(query, self._wording.clear_value(trait)) > 0

    def _make_plan(self, *, complete: bool, delivery_id: str) -> None:
        now = self._now or self.summary.started_at.isoformat()
        with self._progress.watch("merging subscriptions", self._ledger.connection, size=f"{self.intake.rows:,} rows"):
            self.summary.merge = merge(self._ledger, complete=complete)
        self._brake.check_rows(self.summary.merge, complete=complete)
        with self._progress.watch("comparing traits", self._ledger.connection):
            self.summary.plan = make_plan(self._ledger, self._wording, now=now, delivery_id=delivery_id)
        self._brake.check_clears(self.summary.plan)

    def end(self, status: str, message: str | None = None) -> None:
        """Write the summary and close the ledger; once is enough.

        Raises:
            StorageFailed: the run went well, but that could not be noted.
        """
        if self.summary.finished_at is not None:
            return
        self.summary.status, self.summary.message = status, message
        self.summary.finished_at = datetime.now(tz=UTC)
        try:
            with storage_errors("noting the end of the run"), closing(self._ledger):
                self._ledger.finish_run(self.summary.run_id, status, json.dumps(self.summary.as_dict()))
            with storage_errors("writing the summary"):
                path = self.summary.write(self._runs)
        except (RunStopped, duckdb.Error) as e:
            if message is None:
                raise
            self._logger.warning("the end of the run could not be noted: %s", str(e).splitlines()[0])
        else:
            self.summary.log(self._logger, path)
