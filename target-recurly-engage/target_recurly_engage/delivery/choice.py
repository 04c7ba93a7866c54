"""The delivery that the settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from piano_engage_common.transport import Patience, Stopping, Transport

from target_recurly_engage.delivery.auto import AutoDelivery
from target_recurly_engage.delivery.file import FileDelivery
from target_recurly_engage.delivery.ingest import IngestDelivery
from target_recurly_engage.delivery.overlap import overlap_of
from target_recurly_engage.delivery.s3 import S3Delivery, bucket_of
from target_recurly_engage.engage import PATH, IngestClient, access_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.delivery.csvs import Delivered
    from target_recurly_engage.delivery.ingest import Requests
    from target_recurly_engage.ledger import Ledger


class Delivery(Protocol):
    """What a run asks of any way to Engage."""

    def check(self) -> None:
        """Find out, before the work of a run, whether it could be delivered."""

    def settle(self) -> None:
        """Find out what became of deliveries that a crash left open."""

    def interrupt(self) -> None:
        """End as soon as what is under way has landed; called by the handler of a signal."""

    def deliver(self, run_id: str, delivery_id: str) -> Delivered | Requests | None:
        """Send the table ``plan`` and acknowledge what arrived."""


def delivery_of(
    config: Mapping[str, Any], ledger: Ledger, contract: Contract, *, logger: logging.Logger, progress: Progress
) -> Delivery:
    """Read the target's settings.

    Raises:
        ConfigRefused: one that this delivery needs is missing or cannot be used.
    """
    channel = config["delivery"]
    if channel == FileDelivery.channel:
        folder = Path(config["output_path"])
        return FileDelivery(ledger, contract, folder, logger=logger, progress=progress)
    if channel == IngestDelivery.channel:
        return _ingest(config, ledger, contract, logger=logger, progress=progress)
    overlap = overlap_of(config)
    s3 = S3Delivery(ledger, contract, bucket_of(config), overlap=overlap, logger=logger, progress=progress)
    if channel == S3Delivery.channel:
        return s3
    return AutoDelivery(
        ledger,
        _ingest(config, ledger, contract, logger=logger, progress=progress),
        s3,
        max_users=int(config["ingest_max_users"]),
        overlap=overlap,
        logger=logger,
    )


def clearing_of(
    config: Mapping[str, Any], ledger: Ledger, contract: Contract, *, logger: logging.Logger, progress: Progress
) -> IngestDelivery | None:
    """Give the delivery that can clear one reader at once; None where only files are sent.

    Who is in a file that may not have been read waits, whatever the settings say: the file would bring back what was
    cleared.

    Raises:
        ConfigRefused: as :func:`delivery_of`.
    """
    if config["delivery"] not in {IngestDelivery.channel, AutoDelivery.channel}:
        return None
    return _ingest(dict(config) | {"csv_overlap": "wait"}, ledger, contract, logger=logger, progress=progress)


def _ingest(
    config: Mapping[str, Any], ledger: Ledger, contract: Contract, *, logger: logging.Logger, progress: Progress
) -> IngestDelivery:
    access, concurrency = access_of(config), int(config["concurrency"])
    transport = Transport(
        patience=Patience(
            timeout=float(config["request_timeout"]),
            attempts=int(config["retry_attempts"]),
            wait=float(config["retry_wait"]),
            total=float(config["retry_seconds"]),
        ),
        rate=float(config["requests_per_second"]),
        logger=logger,
        stopping=Stopping(),
        at_once=concurrency,
        afterwards="what Engage took is acknowledged, the next run sends the rest",
    )
    return IngestDelivery(
        ledger,
        contract,
        IngestClient(transport, access),
        location=f"{access.url.rstrip('/')}{PATH}",
        concurrency=concurrency,
        typed=config["ingest_values"] == "typed",
        overlap=overlap_of(config),
        logger=logger,
        progress=progress,
    )
