"""Looking into a ledger without holding it: a local file as it is, of a shared one its newest version."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piano_engage_common.stops import NoInput, Outage, storage_errors

from target_recurly_engage.ledger import Ledger
from target_recurly_engage.shared.cache import Gone, cache_of
from target_recurly_engage.shared.lease import is_live
from target_recurly_engage.shared.place import client_of, is_shared, place_of
from target_recurly_engage.shared.pointer import Pointer

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.shared.cache import Version
    from target_recurly_engage.shared.pointer import Seen

ATTEMPTS = 3
"""A version may be gone between being told of it and asking for it."""


class Held(Exception):  # noqa: N818 - what it is
    """A run has the ledger, and is about to change it."""


class Snapshots:
    """The versions of a shared ledger, for looking into.

    Args:
        config: the target's settings.
        logger: told of what may not be looked at.
    """

    def __init__(self, config: Mapping[str, Any], logger: logging.Logger) -> None:
        """Ask for nothing yet."""
        self.place = place_of(config["ledger"])
        self._store = client_of(config, self.place, logger)
        self._pointer = Pointer(self._store, self.place)
        self._cache = cache_of(config["ledger_cache"], self.place)
        self._folder = self._cache.folder / "snapshots"

    def newest(self, *, unheld: bool = False) -> Path | None:
        """Give a file with the newest version, which nobody may write into; None where there is none yet.

        Args:
            unheld: it must not be held by a run.

        Raises:
            Held: it is.
            RunStopped: the bucket cannot be asked.
        """
        for _ in range(ATTEMPTS):
            seen = self._pointer.read()
            if seen is None or not seen.content["current"]["bytes"]:
                return None
            if unheld and is_live(seen):
                raise Held
            path = self._folder / f"{seen.content['current']['name']}.duckdb"
            try:
                self._have(seen.content["current"], path)
            except Gone:
                continue
            return path
        msg = f"ledger: versions of {self.place} go faster than they can be read. Run again."
        raise Outage(msg)

    def versions(self) -> list[Version]:
        """List the versions that are kept, the newest first."""
        seen = self._pointer.read()
        return [] if seen is None else [one for one in _all_of(seen) if one["bytes"]]

    def moved_to(self) -> str | None:
        """Say where the ledger was moved to, if it was."""
        seen = self._pointer.read()
        return None if seen is None else seen.content.get("moved_to")

    def described(self) -> dict[str, Any]:
        """Tell who holds the ledger, what was being sent, and which versions are kept."""
        seen = self._pointer.read()
        if seen is None:
            return {"holder": None, "sending": [], "versions": []}
        holder = seen.content["holder"]
        return {
            "holder": None if holder is None else holder | {"heard_seconds_ago": max(seen.age or 0.0, 0.0)},
            "sending": seen.content["sending"],
            "versions": [one for one in _all_of(seen) if one["bytes"]],
        }

    def of(self, version: Version, path: Path) -> None:
        """Bring a version to *path*."""
        try:
            self._cache.fetch(self._store, version, path)
        except Gone as e:
            msg = f"ledger: version {version['name']} of {self.place} is not there any more."
            raise NoInput(msg) from e

    def _have(self, version: Version, path: Path) -> None:
        if path.exists():
            return
        self._cache.fetch(self._store, version, path)
        for older in self._folder.glob("*.duckdb"):
            if older != path:
                older.unlink(missing_ok=True)  # who has it open keeps it


def _all_of(seen: Seen) -> list[Version]:
    return [seen.content["current"], *seen.content["kept"]]


def exists(config: Mapping[str, Any], logger: logging.Logger) -> bool:
    """Whether there is a ledger where the settings say.

    Raises:
        RunStopped: the bucket cannot be asked.
    """
    where = config["ledger"]
    if not is_shared(where):
        return Path(where).is_file()
    place = place_of(where)
    seen = Pointer(client_of(config, place, logger), place).read()
    return seen is not None and bool(seen.content["current"]["bytes"] or seen.content.get("moved_to"))


def none_yet(config: Mapping[str, Any]) -> str:
    """Say that there is no ledger."""
    return f"ledger: there is none at {config['ledger']} yet. The first run of the target makes it."


@contextmanager
def open_for_reading(config: Mapping[str, Any], logger: logging.Logger, *, wait: float = 0.0) -> Iterator[Ledger]:
    """Open the ledger for the ``with`` block; what is changed in one that is shared stays nowhere.

    Args:
        config: the target's settings.
        logger: told of what may not be looked at.
        wait: seconds to wait for a run that has it, if it is local; of one that is shared the last version is there.

    Raises:
        NoInput: there is none.
        StorageFailed: it is in use by a run, if it is local, or cannot be used.
        RunStopped: the bucket cannot be asked.
    """
    where = config["ledger"]
    found = Snapshots(config, logger).newest() if is_shared(where) else Path(where)
    if found is None or not found.is_file():
        raise NoInput(none_yet(config))
    if not is_shared(where):
        with closing(Ledger(found, memory_limit=config["memory_limit"], wait=wait)) as ledger:
            yield ledger
        return
    with storage_errors(f"writing into {found.parent}"), tempfile.TemporaryDirectory(dir=found.parent) as folder:
        shutil.copyfile(found, Path(folder) / found.name)
        with closing(Ledger(Path(folder) / found.name, memory_limit=config["memory_limit"])) as ledger:
            yield ledger
