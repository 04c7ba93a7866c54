"""A bucket of S3: who asks, how a file gets there whole, and what a refusal means.

An object appears whole or not at all, also one that goes in parts; the server checks each part by its checksum, and
the size and checksum that it then tells are compared with ours. The file's own SHA-256 goes along as metadata.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import AccessRefused, AnswerRefused, ConfigRefused, Outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PART_BYTES: Final = 16 << 20
"""Of an object that goes in parts; S3 takes ten thousand of them."""

PARTS_AT_ONCE: Final = 4
CONNECT_TIMEOUT: Final = 10

ABSENT: Final = frozenset({"NoSuchKey", "NotFound", "404"})
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
_PUTTING: Final = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
_REMEDIES: Final = {
    "ExpiredToken": "The credentials are only good for a time; get new ones",
    "RequestTimeTooSkewed": "Set the clock of this machine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where to, and as whom.

    Attributes:
        name: the bucket.
        prefix: the folder in it, such as ``example-daily-1a2b3c/ingest/``.
        region: of the bucket; without, that of AWS's default chain.
        endpoint_url: of another server than Amazon's.
        access_key_id: with the next two; without, the default chain of AWS is asked.
        secret_access_key: of the key.
        session_token: of credentials that are good for a time.
        timeout: seconds without a byte after which an attempt counts as lost.
        attempts: how often a request is sent at most.
    """

    name: str
    prefix: str
    region: str | None = None
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    attempts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What messages say of a bucket: which settings to look at, and what follows.

    Attributes:
        place: settings that say where it is.
        region: the setting of its region.
        keys: settings of the keys, and where they come from.
        afterwards: what is lost by an outage, and what the next run does.
    """

    place: str
    region: str
    keys: str
    afterwards: str


class BucketClient:
    """Asks a bucket.

    Args:
        bucket: which one, and as whom.
        words: for messages.
        logger: told of what may not be looked at.
    """

    def __init__(self, bucket: Bucket, words: Words, logger: logging.Logger) -> None:
        """Remember where; nothing is asked for yet."""
        self.bucket = bucket
        self._words = words
        self._logger = logger

    def hurried(self, within: float) -> BucketClient:
        """Give one that asks the same, and has an answer, or none, within so many seconds."""
        bucket = replace(
            self.bucket, timeout=min(self.bucket.timeout, within / 2), attempts=min(self.bucket.attempts, 2)
        )
        other = BucketClient(bucket, self._words, self._logger)
        other._session = self._session
        return other

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 - boto3 has no types
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a third of a second, and only here

        return boto3.session.Session()

    @cached_property
    def client(self) -> Any:  # noqa: ANN401 - boto3 has no types
        """Give boto3's client."""
        from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415

        for chatty in ("boto3", "botocore", "s3transfer", "urllib3"):  # at debug level they tell signatures
            logging.getLogger(chatty).setLevel(logging.INFO)
        bucket = self.bucket
        return self._session.client(
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

    # Files

    def look(self, key: str) -> dict[str, Any] | None:
        """Ask for what is told of an object; None when it is not there, an empty answer when nobody may look."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3

        location = self.location_of(key)
        try:
            with self.told("HeadObject", location, passing=ABSENT | {"403", "AccessDenied"}):
                return dict(self.client.head_object(Bucket=self.bucket.name, Key=key, ChecksumMode="ENABLED"))
        except ClientError as e:
            if code_of(e) in ABSENT:
                return None
            self._logger.info("%s may be written, but not looked at", location)
            return {}

    def upload(
        self,
        path: Path,
        key: str,
        *,
        size: int,
        sha256: str,
        content_type: str,
        count: Callable[[int], None],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Put a file there, and compare what the server then tells of it.

        Args:
            path: the file.
            key: its name there.
            size: its bytes.
            sha256: its checksum, in hexadecimal.
            content_type: what it is.
            count: told of bytes as they leave.
            before: called before each attempt of each request; what it raises ends the upload, and nothing appears.

        Raises:
            Outage: another object lies there afterwards, or the server did not answer.
            RunStopped: the server refuses it.
        """
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3

        with self.told("PutObject", self.location_of(key)), self._asked(before):
            self.client.upload_file(
                str(path),
                self.bucket.name,
                key,
                ExtraArgs={
                    "ChecksumAlgorithm": "SHA256",
                    "ContentType": content_type,
                    "Metadata": {"sha256": sha256},
                },
                Callback=count,
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                ),
            )
        self._compare(path, key, size, sha256)

    @contextmanager
    def _asked(self, before: Callable[[], None]) -> Iterator[None]:
        """Have *before* called before all that puts something there; what makes good a broken upload goes unasked."""

        def ask(**_: object) -> None:
            before()

        events = [f"before-send.s3.{call}" for call in _PUTTING]
        for event in events:
            self.client.meta.events.register(event, ask)
        try:
            yield
        finally:
            for event in events:
                self.client.meta.events.unregister(event, ask)

    def location_of(self, key: str) -> str:
        """Write an object's address."""
        return f"s3://{self.bucket.name}/{key}"

    def _compare(self, path: Path, key: str, size: int, sha256: str) -> None:
        """Compare what the server tells of the object with the file.

        Raises:
            Outage: another object lies there.
        """
        found = self.look(key)
        if not found:
            return  # each part was checked by the server as it came
        told = found.get("ChecksumSHA256")
        right = found.get("ContentLength") == size and found.get("Metadata", {}).get("sha256") == sha256
        if not right or (told is not None and told not in _checksums(path, sha256)):
            msg = (
                f"{self.location_of(key)}: what lies there after the upload is not the file that was sent "
                f"({size:,} bytes; the server tells {found['ContentLength']:,}). It does not count as delivered: run "
                "again."
            )
            raise Outage(msg)

    # Refusals

    @contextmanager
    def told(self, call: str, location: str, passing: frozenset[str] = frozenset()) -> Iterator[None]:
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
            if code_of(e) in passing:
                raise
            raise self._stop(call, location, e) from e
        except (NoCredentialsError, PartialCredentialsError) as e:
            msg = f"S3: no credentials ({e}). Set {self._words.keys}, or give the process a role."
            raise ConfigRefused(msg) from e
        except (ParamValidationError, ValueError) as e:
            msg = (
                f"S3: {call} {location} cannot be asked: {str(e).strip().splitlines()[-1]}. Check {self._words.place}."
            )
            raise ConfigRefused(msg) from e
        except (BotoCoreError, Boto3Error) as e:
            msg = f"S3: {call} {location}: {e}. {self._words.afterwards}"
            raise Outage(msg) from e

    def _stop(self, call: str, location: str, error: Any) -> AccessRefused | AnswerRefused | ConfigRefused | Outage:  # noqa: ANN401 - boto3 has no types
        code = code_of(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        said = f"S3: {call} {location} was refused with {code} ({status})"
        if code in _REFUSED or status in {401, 403}:
            remedy = _REMEDIES.get(code, f"Check {self._words.place} and {self._words.keys}")
            return AccessRefused(f"{said}. {remedy}.")
        if code in _MISPLACED or status in {301, 307, 404}:
            return ConfigRefused(f"{said}. Check {self._words.place} and {self._words.region} ({self.bucket.region}).")
        if code in _BUSY or status >= 500:  # noqa: PLR2004 - server errors
            unknown = code == "NotImplemented"
            missing = "This server does not offer that call: check the setting of its address. " if unknown else ""
            return Outage(f"{said}. {missing}{self._words.afterwards}")
        return AnswerRefused(f"{said}: nothing this program can mend.")


def code_of(error: Any) -> str:  # noqa: ANN401 - boto3 has no types
    """Give S3's code of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _checksums(path: Path, sha256: str) -> set[str]:
    """Give what S3 may tell of a file: the checksum of all of it, and that of the checksums of its parts."""
    whole = base64.b64encode(bytes.fromhex(sha256)).decode()
    digests = []
    with path.open("rb") as file:
        while chunk := file.read(PART_BYTES):
            digests.append(hashlib.sha256(chunk).digest())
    of_parts = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    return {whole, of_parts, f"{of_parts}-{len(digests)}"}
