"""Delivery by whichever way suits: few readers by the Ingest API, many by a file in Engage's S3 folder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from target_recurly_engage.delivery.ingest import Requests

if TYPE_CHECKING:
    import logging

    from target_recurly_engage.delivery.csvs import Delivered
    from target_recurly_engage.delivery.ingest import IngestDelivery
    from target_recurly_engage.delivery.overlap import Overlap
    from target_recurly_engage.delivery.s3 import S3Delivery
    from target_recurly_engage.ledger import Ledger


class AutoDelivery:
    """Chooses between two deliveries.

    Args:
        ledger: says how many readers are due.
        ingest: for few.
        s3: for many.
        max_users: more than these are many.
        overlap: what becomes of readers whose file may not have been read.
        logger: for a line when a plan waits.
    """

    channel: Final = "auto"

    def __init__(
        self,
        ledger: Ledger,
        ingest: IngestDelivery,
        s3: S3Delivery,
        *,
        max_users: int,
        overlap: Overlap,
        logger: logging.Logger,
    ) -> None:
        """Remember both."""
        self._ledger = ledger
        self._ingest = ingest
        self._s3 = s3
        self._max_users = max_users
        self._overlap = overlap
        self._logger = logger

    def check(self) -> None:
        """Find out, before the work of a run, whether it could be delivered.

        Raises:
            RunStopped: it could not.
        """
        self._ingest.check()
        self._s3.check()

    def settle(self) -> None:
        """Find out what became of deliveries that a crash left open."""
        self._s3.settle()
        self._ingest.settle()

    def interrupt(self) -> None:
        """End as soon as what is under way has landed."""
        self._s3.interrupt()
        self._ingest.interrupt()

    def deliver(self, run_id: str, delivery_id: str) -> Delivered | Requests | None:
        """Send the table ``plan``; one file is on its way at a time.

        Raises:
            RunStopped: as either delivery.
        """
        now = datetime.now(tz=UTC)
        in_flight = self._overlap.mark(self._ledger, now)
        due = self._ingest.count_due(now)
        if due <= self._max_users:
            return self._ingest.deliver(run_id, delivery_id)
        if in_flight and not self._overlap.again:
            ((until,),) = self._ledger.connection.execute("SELECT max(until)::VARCHAR FROM in_flight").fetchall()
            waiting = self._ledger.count("SELECT count(*) FROM plan")
            self._logger.warning(
                "%d readers are due, which is many, but the last file counts as unread until %s: a run after that "
                "sends them",
                waiting, until,
            )  # fmt: skip
            self._ledger.connection.execute("DROP TABLE plan")
            return Requests(location="", users=0, held=waiting)
        return self._s3.deliver(run_id, delivery_id)
