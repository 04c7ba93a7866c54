"""Delivery into Engage's S3 ingest folder (fact sheet of Engage, section 2).

An object appears whole or not at all, also one that goes in parts; the server checks each part by its checksum, and
the size and checksum that it then tells are compared with ours. The file's own SHA-256 goes along as metadata: by it
a later run knows what a run that broke off delivered.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from piano_engage_common.stops import AccessRefused, AnswerRefused, ConfigRefused, Outage
from typing_extensions import override

from target_recurly_engage.delivery.csvs import CsvDelivery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger

PART_BYTES: Final = 16 << 20
"""Of an object that goes in parts; S3 takes ten thousand of them."""

PARTS_AT_ONCE: Final = 4
CONNECT_TIMEOUT: Final = 10

_REFUSED: Final = frozenset({
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnauthorizedAccess", "401", "403",
})  # fmt: skip
_MISPLACED: Final = frozenset({
    "NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException", "301", "307",
})  # fmt: skip
_BUSY: Final = frozenset({
    "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted",
    "RequestLimitExceeded", "BadDigest", "408", "429",
})  # fmt: skip
_ABSENT: Final = frozenset({"NoSuchKey", "NotFound", "404"})
_REMEDIES: Final = {
    "ExpiredToken": "The credentials are only good for a time; get new ones",
    "RequestTimeTooSkewed": "Set the clock of this machine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where to, and as whom; an administrator finds it in Pulse under Show Credentials.

    Attributes:
        name: the bucket.
        prefix: the folder in it, such as ``example-daily-1a2b3c/ingest/``.
        region: of the bucket.
        endpoint_url: of another server than Amazon's.
        access_key_id: with the next two; without, the default chain of AWS is asked.
        secret_access_key: of the key.
        session_token: of credentials that are good for a time.
        timeout: seconds without a byte after which an attempt counts as lost.
        attempts: how often a request is sent at most.
    """

    name: str
    prefix: str
    region: str
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    attempts: int = 5


def bucket_of(config: Mapping[str, Any]) -> Bucket:
    """Read the target's settings.

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
        logger: for a line about each file.
        progress: told how far it is.
    """

    channel: ClassVar[str] = "s3"

    def __init__(
        self, ledger: Ledger, contract: Contract, bucket: Bucket, *, logger: logging.Logger, progress: Progress
    ) -> None:
        """Remember where to send; nothing is asked for yet."""
        super().__init__(ledger, contract, logger=logger, progress=progress)
        self._bucket = bucket

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - boto3 has no types
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a third of a second, and only here
        from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415

        for chatty in ("boto3", "botocore", "s3transfer", "urllib3"):  # at debug level they tell signatures
            logging.getLogger(chatty).setLevel(logging.INFO)
        bucket = self._bucket
        return boto3.session.Session().client(
            "s3",
            region_name=bucket.region,
            endpoint_url=bucket.endpoint_url,
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=bucket.secret_access_key,
            aws_session_token=bucket.session_token,
            config=Config(
                connect_timeout=min(CONNECT_TIMEOUT, bucket.timeout),
                read_timeout=bucket.timeout,
                retries={"mode": "standard", "total_max_attempts": bucket.attempts},
                s3={"addressing_style": "path" if bucket.endpoint_url else "auto"},
            ),
        )

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
        with self._told("CreateMultipartUpload", f"s3://{self._bucket.name}/{key}"):
            upload = self._client.create_multipart_upload(**place)
        self._give_up(upload["UploadId"], **place)

    def _give_up(self, upload_id: str, **place: str) -> None:
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3
            BotoCoreError,
            ClientError,
        )

        with suppress(BotoCoreError, ClientError):  # who may write need not be allowed to give up; it leaves no file
            self._client.abort_multipart_upload(**place, UploadId=upload_id)

    @override
    def _appeared(self, location: str, size: int, sha256: str) -> bool:
        found = self._look(location)
        if found is None:
            return False
        return bool(found["ContentLength"] == size and found["Metadata"].get("sha256") == sha256)

    def _look(self, location: str) -> dict[str, Any] | None:
        """Ask for what is told of an object; None when it is not there, or may not be looked at."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as boto3

        bucket, _, key = location.removeprefix("s3://").partition("/")
        try:
            with self._told("HeadObject", location, passing=_ABSENT | {"403", "AccessDenied"}):
                return dict(self._client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED"))
        except ClientError as e:
            if _code(e) not in _ABSENT:
                self._logger.info("%s may be written, but not looked at", location)
            return None

    @override
    def _forget(self, location: str) -> None:
        """Give up the parts of an upload that broke off: they are kept, and paid for, until somebody does."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as boto3

        bucket, _, key = location.removeprefix("s3://").partition("/")
        try:
            with self._told("ListMultipartUploads", location, passing=frozenset({"AccessDenied", "NotImplemented"})):
                found = self._client.list_multipart_uploads(Bucket=bucket, Prefix=key)
        except ClientError:
            return
        for upload in found.get("Uploads", []):
            if upload["Key"] == key:
                self._give_up(upload["UploadId"], Bucket=bucket, Key=key)

    # Sending

    @override
    def _publish(self, part: Path, location: str, size: int, sha256: str) -> None:
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3

        bucket, _, key = location.removeprefix("s3://").partition("/")
        sent = 0

        def count(more: int) -> None:
            nonlocal sent
            sent += more

        with (
            self._told("PutObject", location),
            self._progress.steps("uploading traits", lambda: 100 * sent / size, size=f"{size / 1e6:,.1f} MB"),
        ):
            self._client.upload_file(
                str(part),
                bucket,
                key,
                ExtraArgs={
                    "ChecksumAlgorithm": "SHA256",
                    "ContentType": "text/csv; charset=utf-8",
                    "Metadata": {"sha256": sha256},
                },
                Callback=count,
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                ),
            )
        self._compare(part, location, size, sha256)

    def _compare(self, part: Path, location: str, size: int, sha256: str) -> None:
        """Compare what the server tells of the object with the file.

        Raises:
            Outage: another object lies there.
        """
        found = self._look(location)
        if found is None:
            return  # each part was checked by the server as it came
        told = found.get("ChecksumSHA256")
        right = found["ContentLength"] == size and found["Metadata"].get("sha256") == sha256
        if not right or (told is not None and told not in _checksums(part, sha256)):
            msg = (
                f"{location}: what lies there after the upload is not the file that was sent ({size:,} bytes; the "
                f"server tells {found['ContentLength']:,}). It does not count as delivered: run again."
            )
            raise Outage(msg)

    # Refusals

    @contextmanager
    def _told(self, call: str, location: str, passing: frozenset[str] = frozenset()) -> Iterator[None]:
        """Turn what boto3 raises into a reason to stop; codes that are *passing* are raised as they are."""
        from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3
        from botocore.exceptions import (  # noqa: PLC0415 - as boto3
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            ParamValidationError,
            PartialCredentialsError,
        )

        try:
            try:
                yield
            except Boto3Error as e:  # upload_file() wraps what was raised
                raise e.__cause__ or e.__context__ or e from None
        except ClientError as e:
            if _code(e) in passing:
                raise
            raise self._stop(call, location, e) from e
        except (NoCredentialsError, PartialCredentialsError) as e:
            msg = (
                f"S3: no credentials ({e}). Set aws_access_key_id and aws_secret_access_key as Pulse shows them, or "
                "give the process a role."
            )
            raise ConfigRefused(msg) from e
        except (ParamValidationError, ValueError) as e:
            msg = (
                f"S3: {call} {location} cannot be asked: {str(e).strip().splitlines()[-1]}. Check s3_bucket, s3_prefix."
            )
            raise ConfigRefused(msg) from e
        except (BotoCoreError, Boto3Error) as e:
            msg = f"S3: {call} {location}: {e}. Nothing is lost: the next run sends it."
            raise Outage(msg) from e

    def _stop(self, call: str, location: str, error: Any) -> AccessRefused | AnswerRefused | ConfigRefused | Outage:  # noqa: ANN401 - boto3 has no types
        code = _code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        said = f"S3: {call} {location} was refused with {code} ({status})"
        if code in _REFUSED or status in {401, 403}:
            remedy = _REMEDIES.get(code, "Check s3_bucket, s3_prefix and the credentials that Pulse shows")
            return AccessRefused(f"{said}. {remedy}.")
        if code in _MISPLACED or status in {301, 307, 404}:
            return ConfigRefused(f"{said}. Check s3_bucket and s3_region ({self._bucket.region}).")
        if code in _BUSY or status >= 500:  # noqa: PLR2004 - server errors
            return Outage(f"{said}. Nothing is lost: the next run sends it.")
        return AnswerRefused(f"{said}: nothing this program can mend.")


def _code(error: Any) -> str:  # noqa: ANN401 - boto3 has no types
    return str(error.response.get("Error", {}).get("Code", ""))


def _checksums(part: Path, sha256: str) -> set[str]:
    """Give what S3 may tell of a file: the checksum of all of it, and that of the checksums of its parts."""
    whole = base64.b64encode(bytes.fromhex(sha256)).decode()
    digests = []
    with part.open("rb") as file:
        while chunk := file.read(PART_BYTES):
            digests.append(hashlib.sha256(chunk).digest())
    of_parts = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    return {whole, of_parts, f"{of_parts}-{len(digests)}"}
