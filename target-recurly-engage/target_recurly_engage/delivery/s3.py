"""Delivery into Engage's S3 ingest folder (fact sheet of Engage, section 2).

:mod:`target_recurly_engage.bucket` sees to it that a file appears whole or not at all. By the SHA-256 in its metadata
a later run knows what a run that broke off delivered.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from piano_engage_common.stops import ConfigRefused, Outage
from typing_extensions import override

from target_recurly_engage.bucket import Bucket, BucketClient, Words
from target_recurly_engage.delivery.csvs import CsvDelivery
from target_recurly_engage.delivery.ingest import Requests

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.delivery.csvs import Delivered
    from target_recurly_engage.delivery.overlap import Overlap
    from target_recurly_engage.ledger import Ledger

WORDS: Final = Words(
    place="s3_bucket, s3_prefix",
    region="s3_region",
    keys="aws_access_key_id and aws_secret_access_key as Pulse shows them",
    afterwards="Nothing is lost: the next run sends it.",
)


def bucket_of(config: Mapping[str, Any]) -> Bucket:
    """Read the target's settings; an administrator finds what they are in Pulse under Show Credentials.

    Raises:
        ConfigRefused: one that is needed is missing.
    """
    for setting in ("s3_bucket", "s3_prefix"):
        if not config.get(setting):
            msg = f"{setting}: is needed for the delivery `s3`. Pulse shows it under Show Credentials."
            raise ConfigRefused(msg)
    key, secret = config.get("aws_access_key_id"), config.get("aws_secret_access_key")
    if bool(key) != bool(secret):
        msg = (
            "aws_access_key_id and aws_secret_access_key go together: set both, or neither to use AWS's default chain."
        )
        raise ConfigRefused(msg)
    return Bucket(
        name=config["s3_bucket"],
        prefix=config["s3_prefix"],
        region=config["s3_region"],
        endpoint_url=config.get("s3_endpoint_url") or None,
        access_key_id=key or None,
        secret_access_key=secret or None,
        session_token=config.get("aws_session_token") or None,
        timeout=float(config["request_timeout"]),
        attempts=int(config["retry_attempts"]),
    )


class S3Delivery(CsvDelivery):
    """Puts plans into a bucket.

    Args:
        ledger: notes and acknowledges what is sent.
        contract: what is sent.
        bucket: where to.
        overlap: what becomes of users whose last file may not have been read.
        logger: for a line about each file.
        progress: told how far it is.
    """

    channel: ClassVar[str] = "s3"

    def __init__(
        self,
        ledger: Ledger,
        contract: Contract,
        bucket: Bucket,
        *,
        overlap: Overlap,
        logger: logging.Logger,
        progress: Progress,
    ) -> None:
        """Remember where to send; nothing is asked for yet."""
        super().__init__(ledger, contract, logger=logger, progress=progress)
        self._overlap = overlap
        self._bucket = bucket
        self._store = BucketClient(bucket, WORDS, logger)

    # Where

    @override
    def _location_of(self, file_name: str) -> str:
        return f"s3://{self._bucket.name}/{self._prefix}{file_name}"

    @property
    def _prefix(self) -> str:
        folder = self._bucket.prefix.strip("/")
        return f"{folder}/" if folder else ""

    @override
    def _part_of(self, location: str) -> Path:
        return self._ledger.work / location.rpartition("/")[2]

    # Asking

    @override
    def check(self) -> None:
        """Begin an upload and give it up: that takes the permission to write, and leaves nothing."""
        key = f"{self._prefix}permission-test.csv"
        place = {"Bucket": self._bucket.name, "Key": key}
        with self._store.told("CreateMultipartUpload", f"s3://{self._bucket.name}/{key}"):
            upload_id = self._store.client.create_multipart_upload(**place).get("UploadId")
        if not upload_id:
            msg = (
                f"S3: CreateMultipartUpload s3://{self._bucket.name}/{key} was answered with something that is not "
                "S3's answer, such as a page of HTML. Is there a proxy in the way? Check s3_endpoint_url. "
                f"{WORDS.afterwards}"
            )
            raise Outage(msg)
        self._give_up(upload_id, **place)

    def _give_up(self, upload_id: str, **place: str) -> None:
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3
            BotoCoreError,
            ClientError,
        )

        with suppress(BotoCoreError, ClientError):  # who may write need not be allowed to give up; it leaves no file
            self._store.client.abort_multipart_upload(**place, UploadId=upload_id)

    @override
    def _appeared(self, location: str, size: int, sha256: str) -> bool | None:
        if not location.startswith(f"s3://{self._bucket.name}/"):
            return None  # the setting was changed
        found = self._store.look(_key_of(location))
        if found is None:
            return False
        if not found:
            return None
        return bool(found.get("ContentLength") == size and found.get("Metadata", {}).get("sha256") == sha256)

    @override
    def _never_left(self, location: str) -> bool:
        return False  # a request whose answer is lost may have arrived

    @override
    def _forget(self, location: str) -> None:
        """Give up the parts of an upload that broke off: they are kept, and paid for, until somebody does."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as boto3

        bucket, _, key = location.removeprefix("s3://").partition("/")
        try:
            with self._store.told(
                "ListMultipartUploads", location, passing=frozenset({"AccessDenied", "NotImplemented"})
            ):
                found = self._store.client.list_multipart_uploads(Bucket=bucket, Prefix=key)
        except ClientError:
            return
        for upload in found.get("Uploads", []):
            if upload["Key"] == key:
                self._give_up(upload["UploadId"], Bucket=bucket, Key=key)

    # Sending

    @override
    def deliver(self, run_id: str, delivery_id: str) -> Delivered | Requests | None:
        with self._ledger.transaction():
            held, until = self._overlap.hold_back(self._ledger, datetime.now(tz=UTC))
        delivered = self._send(run_id, delivery_id)
        if not held:
            return delivered
        self._logger.warning(
            "%d user(s) changed again while their last file counts as unread, until %s (csv_ingest_hours); a run after "
            "that sends them",
            held, until,
        )  # fmt: skip
        return replace(delivered, held=held) if delivered else Requests(location="", users=0, held=held)

    @override
    def _publish(self, part: Path, location: str, size: int, sha256: str) -> None:
        sent = 0

        def count(more: int) -> None:
            nonlocal sent
            sent += more

        with self._progress.steps("uploading traits", lambda: 100 * sent / size, size=f"{size / 1e6:,.1f} MB"):
            self._store.upload(
                part,
                _key_of(location),
                size=size,
                sha256=sha256,
                content_type="text/csv; charset=utf-8",
                count=count,
                before=self._ledger.hold,
            )


def _key_of(location: str) -> str:
    return location.removeprefix("s3://").partition("/")[2]
