"""The local copies of a shared ledger.

A copy is named after the version that it came from, so a stale one is seen by its name. While a run works on a copy a
mark lies beside it; a mark that a later run finds means work that was not returned.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import Outage, storage_errors

from target_recurly_engage.bucket import ABSENT, code_of
from target_recurly_engage.delivery.csvs import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from target_recurly_engage.bucket import BucketClient
    from target_recurly_engage.shared.place import Place

SUFFIX: Final = ".duckdb"
ASIDE: Final = ".aside"
_MARK: Final = ".at-work"

Version = dict[str, Any]
"""A version as ``current.json`` has it: name, base, bytes, sha256, written_at, by, passing."""


class Gone(Exception):  # noqa: N818 - what happened
    """A version is not there any more: a newer one has taken its place."""


class Cache:
    """The copies of one ledger.

    Args:
        folder: of the copies of all ledgers.
        place: the ledger.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        """Make nothing yet."""
        self.folder = folder / place.bucket / place.key
        self._place = place

    def path(self, name: str) -> Path:
        """Say where a run works on the version of that name."""
        return self.folder / f"{name}{SUFFIX}"

    def mark(self, path: Path) -> None:
        """Note, to be seen after a crash as well, that a run works on a copy."""
        with storage_errors(f"writing into {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _mark_of(path).open("wb") as file:
                os.fsync(file.fileno())

    def unmark(self, path: Path, name: str) -> None:
        """Note that the work on a copy was returned, and is the version of that name now."""
        path.replace(self.path(name))
        _mark_of(path).unlink(missing_ok=True)

    def is_marked(self, path: Path) -> bool:
        """Whether a run works on a copy, or broke off while it did."""
        return _mark_of(path).exists()

    def tidy(self, current: Version, kept: list[Version]) -> Iterator[Path]:
        """Remove copies of other versions than *current*, and put aside those with work that was not returned.

        Yields:
            Each that was put aside.
        """
        sums = {one["sha256"] for one in kept}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path == self.path(current["name"]):
                continue
            wal = path.with_name(f"{path.name}.wal")
            returned = not wal.exists() and self.is_marked(path) and sha256_of(path) in sums
            if returned and sha256_of(path) == current["sha256"]:
                self.unmark(path, current["name"])
            elif self.is_marked(path) and not returned:
                yield self.put_aside(path)
            else:
                self.drop(path)

    def drop(self, path: Path) -> None:
        """Remove a copy."""
        for one in (path, path.with_name(f"{path.name}.wal"), _mark_of(path)):
            one.unlink(missing_ok=True)

    def put_aside(self, path: Path) -> Path:
        """Move a copy out of the way; nothing of it is lost."""
        aside = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}{SUFFIX}{ASIDE}")
        wal = path.with_name(f"{path.name}.wal")
        path.replace(aside)
        with suppress(FileNotFoundError):
            wal.replace(aside.with_name(f"{aside.name}.wal"))
        _mark_of(path).unlink(missing_ok=True)
        return aside

    def fetch(self, store: BucketClient, version: Version, path: Path) -> None:
        """Bring a version to *path*, whole or not at all.

        Raises:
            Gone: it is not there any more.
            Outage: what came is not what was put there.
            StorageFailed: there is no room for it.
        """
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        key = self._place.version(version["name"])
        with storage_errors(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                download(store, key, part)
                if part.stat().st_size != version["bytes"] or sha256_of(part) != version["sha256"]:
                    msg = (
                        f"ledger: {store.location_of(key)} is not the file that was put there (its SHA-256 differs). "
                        "Run again; if it stays so, `recurly-engage ledger restore --version` takes an earlier version."
                    )
                    raise Outage(msg)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


def download(store: BucketClient, key: str, path: Path) -> None:
    """Bring an object to *path*.

    Raises:
        Gone: it is not there.
        RunStopped: the bucket cannot be asked.
    """
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3

    try:
        with store.told("GetObject", store.location_of(key), passing=ABSENT):
            store.client.download_file(store.bucket.name, key, str(path))
    except ClientError as e:
        raise Gone(code_of(e)) from e


def cache_of(folder: str, place: Place) -> Cache:
    """Give the copies of a ledger in the folder that the settings name."""
    return Cache(Path(folder), place)


def _mark_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{_MARK}")
