"""Having a shared ledger: taken under a lease, brought here, returned as a new version."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import AccessRefused, Outage, RunStopped, StorageFailed

from target_recurly_engage.bucket import ABSENT, code_of
from target_recurly_engage.delivery.csvs import sha256_of
from target_recurly_engage.shared.cache import Gone, cache_of, download
from target_recurly_engage.shared.lease import Lease, LeaseLost
from target_recurly_engage.shared.place import client_of, place_of
from target_recurly_engage.shared.pointer import Pointer

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

    from target_recurly_engage.delivery.doubt import Sending
    from target_recurly_engage.shared.cache import Version

BINARY: Final = "application/octet-stream"

WAIT: Final = 150.0
"""Seconds to wait for who holds a ledger, where no setting says otherwise: longer than a lease."""


class Custody:
    """A shared ledger that is ours from now on.

    Args:
        config: the target's settings.
        who: names the run, or the command.
        logger: told of waiting, and of what others left.
        moved: take also one that was moved away.

    Attributes:
        place: where it lives.
        lease: says that it is ours.
        cache: its local copies.

    Raises:
        ConfigRefused: the setting names no place for a ledger, or the server is not fit for one.
        StorageFailed: somebody has it.
        RunStopped: the bucket cannot be asked.
    """

    def __init__(self, config: Mapping[str, Any], *, who: str, logger: logging.Logger, moved: bool = False) -> None:
        """Take it."""
        self.place = place_of(config["ledger"])
        self.cache = cache_of(config["ledger_cache"], self.place)
        self._logger = logger
        self._who = who
        self._versions = int(config["ledger_versions"])
        self._store = client_of(config, self.place, logger)
        seconds = float(config["ledger_lease_seconds"])
        pointer = Pointer(self._store.hurried(seconds / 4), self.place)
        pointer.probe()
        self.lease = Lease(pointer, who=who, seconds=seconds, wait=_wait_of(config), logger=logger)
        self.lease.take(moved=moved)

    @property
    def current(self) -> Version:
        """The newest version."""
        return dict(self.lease.content["current"])

    # What is there

    def bring(self) -> Path:
        """Bring the newest version here, where it is not here yet; give the path to work on, which may be empty.

        Raises:
            StorageFailed: it is gone, or there is no room for it.
            RunStopped: the bucket cannot be asked.
        """
        content = self.lease.content
        for aside in self.cache.tidy(content["current"], [content["current"], *content["kept"]]):
            self._logger.warning(
                "%s holds work of a run on this machine that was not returned before another run went on; its readers "
                "are told again in full. Remove it when nobody asks for it any more",
                aside,
            )
        self._remove_orphans()
        path = self.cache.path(self.current["name"])
        if not path.exists():
            self.fetch(path)
        elif self.cache.is_marked(path):
            self._logger.warning("a run on this machine could not return the ledger; its copy is gone on with")
        self.cache.mark(path)
        return path

    def bring_anew(self, path: Path, why: StorageFailed) -> None:
        """Put a copy aside that cannot be used, and bring what the bucket has."""
        self._logger.warning("%s; it is put aside as %s, and brought anew", why, self.cache.put_aside(path))
        self.fetch(path)
        self.cache.mark(path)

    def fetch(self, path: Path) -> None:
        """Bring the newest version to *path*, if there is one.

        Raises:
            StorageFailed: it is gone, or there is no room for it.
            Outage: it is not what was put there.
        """
        if not self.current["bytes"]:
            return
        try:
            self.cache.fetch(self._store, self.current, path)
        except Gone as e:
            msg = (
                f"ledger: version {self.current['name']} of {self.place} is gone. `recurly-engage ledger restore "
                "--version` takes an earlier one."
            )
            raise StorageFailed(msg) from e

    def fetch_plan(self, sending: Sending, path: Path) -> None:
        """Bring the plan of a run that was about to send it.

        Raises:
            StorageFailed: it is gone.
        """
        try:
            download(self._store, self.place.sending(sending["delivery_id"]), path)
        except Gone as e:
            msg = (
                f"ledger: a run was about to send {sending['users']:,} readers, and who they are is gone from "
                f"{self.place}. `recurly-engage ledger restore --version {self.current['name']}` goes on, and tells "
                "every reader in full."
            )
            raise StorageFailed(msg) from e

    # What is put there

    def put_plan(self, sending: Sending, path: Path) -> None:
        """Leave word of what is about to be sent.

        Raises:
            LeaseLost, RunStopped: that could not be done.
        """
        self._upload(path, self.place.sending(sending["delivery_id"]))
        self.lease.change(lambda content: content | {"sending": [*content["sending"], sending]})

    def put(self, path: Path, *, forget: bool = False, passing: bool = False) -> None:
        """Make a closed file the newest version, and let the ledger go.

        Args:
            path: the file; where it is the copy of the cache it becomes that of the new version.
            forget: no earlier version may be left.
            passing: nobody will want to go back to it, so it goes when the next one comes, and pushes none out.

        Raises:
            LeaseLost: another run has taken the ledger.
            RunStopped: the bucket cannot be asked; the newest version is what it was.
        """
        self.lease.renew()
        sha256, before = sha256_of(path), self.lease.content
        if sha256 == before["current"]["sha256"] and not before["sending"]:
            self.let_go()
            self._keep(path, self.current["name"])
            return
        version = {
            "name": f"{before['version'] + 1:06}-{uuid.uuid4().hex[:8]}", "base": self.current["name"],
            "bytes": path.stat().st_size, "sha256": sha256, "written_at": now(), "by": self._who,
            "passing": passing,
        }  # fmt: skip
        self._upload(path, self.place.version(version["name"]))
        known = [*([before["current"]] if before["current"]["bytes"] else []), *before["kept"]]
        kept = [] if forget else [one for one in known if not one.get("passing")][: self._versions - (not passing)]
        self._point_to(version, {"version": before["version"] + 1, "kept": kept, "sending": []})
        self._keep(path, version["name"])
        self._remove(
            [self.place.version(one["name"]) for one in known if one not in kept]
            + [self.place.sending(one["delivery_id"]) for one in before["sending"]]
        )

    def _point_to(self, version: Version, more: dict[str, Any]) -> None:
        """Let the version be the newest one, and the ledger go; where no answer came, ask what became of it."""
        try:
            self.lease.end(lambda content: content | more | {"current": version, "moved_to": None})
        except LeaseLost:
            raise
        except Outage:
            self.lease.end()
            if self.current["name"] != version["name"]:
                raise

    def _keep(self, path: Path, name: str) -> None:
        if path.parent == self.cache.folder:
            self.cache.unmark(path, name)

    def let_go(self, **more: object) -> None:
        """Let the ledger go as it is; where that does not succeed, it ends by itself.

        Args:
            more: what else is to be said of it.
        """
        try:
            self.lease.end(lambda content: content | more)
        except LeaseLost:
            return
        except RunStopped as e:
            if more:
                raise
            self._logger.warning("the ledger could not be let go, which ends by itself: %s", e)

    def _upload(self, path: Path, key: str) -> None:
        size = path.stat().st_size
        self._store.upload(path, key, size=size, sha256=sha256_of(path), content_type=BINARY, count=lambda _: None)

    # What nobody needs

    def _remove_orphans(self) -> None:
        """Remove what runs that broke off left, and nobody named; it does no harm where that is not allowed.

        Raises:
            LeaseLost: another run has taken the ledger.
            RunStopped: the bucket cannot be asked whether it has.
        """
        content = self.lease.content
        named = {self.place.version(one["name"]) for one in [content["current"], *content["kept"]]}
        named |= {self.place.sending(one["delivery_id"]) for one in content["sending"]}
        try:
            with self._store.told("ListObjectsV2", str(self.place)):
                found = self._store.client.list_objects_v2(Bucket=self.place.bucket, Prefix=f"{self.place.key}/")
        except RunStopped as e:
            self._logger.info("what runs that broke off left could not be looked for: %s", e)
            return
        keys = {entry["Key"] for entry in found.get("Contents", []) if self.place.is_ours(entry["Key"])}
        if keys - named:
            self.lease.renew()  # else what was listed may be what another run has put there meanwhile
            self._remove(sorted(keys - named))

    def _remove(self, keys: list[str]) -> None:
        """Remove objects that nobody needs any more; it does no harm where that is not allowed or does not succeed."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # noqa: PLC0415 - as boto3

        for key in keys:
            try:
                with self._store.told("DeleteObject", self._store.location_of(key), passing=ABSENT):
                    self._store.client.delete_object(Bucket=self.place.bucket, Key=key)
            except ClientError as e:
                self._logger.debug("%s was gone: %s", key, code_of(e))
            except (AccessRefused, Outage) as e:
                self._logger.info("what nobody needs any more stays in the bucket: %s", e)
                return


def now() -> str:
    """Give this moment as ISO 8601."""
    return datetime.now(tz=UTC).isoformat(timespec="seconds")


def _wait_of(config: Mapping[str, Any]) -> float:
    given = config.get("ledger_wait")
    return WAIT if given is None else float(given)
