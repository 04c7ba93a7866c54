"""The one object that says who holds a ledger and which file is its newest version; written on conditions only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import ConfigRefused

from target_recurly_engage.bucket import ABSENT, code_of

if TYPE_CHECKING:
    from target_recurly_engage.bucket import BucketClient
    from target_recurly_engage.shared.place import Place

FORMAT: Final = 1
MOVED: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_UNKNOWN: Final = frozenset({"NotImplemented", "InvalidArgument", "501"})
NEVER: Final = '"00000000000000000000000000000000"'
"""An ETag that no object has."""

Content = dict[str, Any]


class Moved(Exception):  # noqa: N818 - what happened
    """The object is not as it was seen: somebody else wrote it, or an earlier attempt of ours did."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The object as it was read.

    Attributes:
        content: what it says.
        etag: what names this very state of it.
        age: seconds since it was written, both moments by the server's clock; None where the server does not tell.
    """

    content: Content
    etag: str
    age: float | None


class Pointer:
    """The object.

    Args:
        store: the bucket.
        place: the ledger.
    """

    def __init__(self, store: BucketClient, place: Place) -> None:
        """Ask for nothing yet."""
        self._store = store
        self._place = place
        self._location = store.location_of(place.current)

    def read(self) -> Seen | None:
        """Read it; None where there is no ledger yet.

        Raises:
            ConfigRefused: what lies there is another thing, or a newer program's.
            RunStopped: the bucket cannot be asked.
        """
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3

        try:
            with self._store.told("GetObject", self._location, passing=ABSENT):
                found = self._store.client.get_object(Bucket=self._place.bucket, Key=self._place.current)
                written = found["Body"].read()
        except ClientError:
            return None
        said = found["ResponseMetadata"]["HTTPHeaders"].get("date")
        age = (parsedate_to_datetime(said) - found["LastModified"]).total_seconds() if said else None
        return Seen(self._parsed(written), found["ETag"], age)

    def _parsed(self, written: bytes) -> Content:
        try:
            content = dict(json.loads(written))
            known = int(content["format"]) <= FORMAT
        except (ValueError, KeyError, TypeError) as e:
            msg = f"ledger: {self._location} is nothing that this program wrote. Choose another path for the ledger."
            raise ConfigRefused(msg) from e
        if not known:
            msg = f"ledger: {self._location} was written by a newer target-recurly-engage. Install that one."
            raise ConfigRefused(msg)
        return content

    def write(self, content: Content, *, etag: str | None) -> str:
        """Write it, where it still is as it was seen, and give its new ETag.

        Args:
            content: what it is to say. It must differ from what it says: an ETag is made of the content.
            etag: as it was seen; None where there was none.

        Raises:
            Moved: it is not.
            RunStopped: the bucket cannot be asked; nobody can tell whether it was written.
        """
        return self._put(self._place.current, json.dumps(content, indent=2).encode(), etag=etag)

    def probe(self) -> None:
        """Find out whether the server heeds conditions, by writes that must be refused.

        Raises:
            ConfigRefused: it does not; two runs would not notice each other.
            RunStopped: the bucket cannot be asked.
        """
        try:
            self._put(self._place.probe, b"Nobody needs this. See docs/shared-ledger.md.\n", etag=None)
        except Moved:  # it is there from an earlier run
            if self._is_refused(NEVER):
                return
        else:
            if self._is_refused(None) and self._is_refused(NEVER):
                return
        msg = (
            f"ledger: the server of {self._place} takes writes whose condition (If-Match, If-None-Match) does not "
            "hold, so two runs would overwrite each other's ledger. Use a server that heeds them, as Amazon S3 does, "
            "or a local ledger."
        )
        raise ConfigRefused(msg)

    def _is_refused(self, etag: str | None) -> bool:
        try:
            self._put(self._place.probe, b"This should not have been taken.\n", etag=etag)
        except Moved:
            return True
        return False

    def _put(self, key: str, body: bytes, *, etag: str | None) -> str:
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as boto3

        location, condition = self._store.location_of(key), {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        passing = MOVED | _UNKNOWN | (ABSENT if etag else frozenset())
        try:
            with self._store.told("PutObject", location, passing=passing):
                written = self._store.client.put_object(
                    Bucket=self._place.bucket, Key=key, Body=body, ContentType="application/json", **condition
                )
        except ClientError as e:
            if code_of(e) in _UNKNOWN:
                msg = (
                    f"ledger: the server of {self._place} does not know writes on a condition ({code_of(e)}), so two "
                    "runs would overwrite each other's ledger. Use one that does, as Amazon S3, or a local ledger."
                )
                raise ConfigRefused(msg) from e
            raise Moved(code_of(e)) from e
        return str(written["ETag"])
