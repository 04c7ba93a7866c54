"""Where a shared ledger lies, and as whom its bucket is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import ConfigRefused

from target_recurly_engage.bucket import Bucket, BucketClient, Words

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

SCHEME: Final = "s3://"
_OURS: Final = re.compile(r"versions/\d{6,}-[0-9a-f]{8}\.duckdb|sending/[0-9a-f]{32}\.parquet")
WORDS: Final = Words(
    place="ledger, ledger_s3_endpoint_url",
    region="ledger_s3_region",
    keys="ledger_aws_access_key_id and ledger_aws_secret_access_key",
    afterwards="Nothing is lost: run again.",
)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in a bucket that is one ledger.

    Attributes:
        bucket: its bucket.
        key: the folder, without a slash at its end.
    """

    bucket: str
    key: str

    def __str__(self) -> str:
        """Give it as the setting has it."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def current(self) -> str:
        """The key of the object that says all."""
        return f"{self.key}/current.json"

    @property
    def probe(self) -> str:
        """The key of an object that nobody needs."""
        return f"{self.key}/probe"

    def version(self, name: str) -> str:
        """Give the key of a version."""
        return f"{self.key}/versions/{name}.duckdb"

    def sending(self, delivery_id: str) -> str:
        """Give the key of what is about to be sent."""
        return f"{self.key}/sending/{delivery_id}.parquet"

    def is_ours(self, key: str) -> bool:
        """Whether a key is that of a version or of something to be sent; other things may lie in the folder."""
        return bool(_OURS.fullmatch(key.removeprefix(f"{self.key}/")))


def is_shared(ledger: str) -> bool:
    """Whether a setting ``ledger`` names shared storage.

    Raises:
        ConfigRefused: it names storage of another kind.
    """
    if "://" in ledger and not ledger.startswith(SCHEME):
        msg = f"ledger: {ledger!r} is neither a path nor s3://BUCKET/PATH, which are what it can be."
        raise ConfigRefused(msg)
    return ledger.startswith(SCHEME)


def place_of(ledger: str) -> Place:
    """Read a setting ``ledger`` that names shared storage.

    Raises:
        ConfigRefused: it lacks the bucket, or the path in it.
    """
    bucket, _, key = ledger.removeprefix(SCHEME).partition("/")
    if not bucket or not key.strip("/"):
        msg = f"ledger: {ledger!r} must be s3://BUCKET/PATH, such as s3://our-bucket/engage/aid.duckdb."
        raise ConfigRefused(msg)
    return Place(bucket, key.strip("/"))


def client_of(config: Mapping[str, Any], place: Place, logger: logging.Logger) -> BucketClient:
    """Make what asks the bucket.

    The keys of the delivery `s3` are Engage's, for a bucket of Engage; so they are not taken here. What is not set, the
    default chain of AWS gives.

    Args:
        config: the target's settings.
        place: the ledger.
        logger: told of what may not be looked at.

    Raises:
        ConfigRefused: half of a pair of keys is missing.
    """
    key, secret = config.get("ledger_aws_access_key_id"), config.get("ledger_aws_secret_access_key")
    if bool(key) != bool(secret):
        msg = (
            "ledger_aws_access_key_id and ledger_aws_secret_access_key go together: set both, or neither to use AWS's "
            "default chain."
        )
        raise ConfigRefused(msg)
    bucket = Bucket(
        name=place.bucket,
        prefix=place.key,
        region=config.get("ledger_s3_region") or None,
        endpoint_url=config.get("ledger_s3_endpoint_url") or None,
        access_key_id=key or None,
        secret_access_key=secret or None,
        session_token=config.get("ledger_aws_session_token") or None,
        timeout=float(config["request_timeout"]),
        attempts=int(config["retry_attempts"]),
    )
    return BucketClient(bucket, WORDS, logger)
