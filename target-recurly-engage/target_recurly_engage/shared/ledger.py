"""A ledger that lives in a bucket, while a run has it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piano_engage_common.stops import RunStopped, StorageFailed, storage_errors
from typing_extensions import override

from target_recurly_engage.delivery.csvs import sha256_of
from target_recurly_engage.delivery.doubt import is_known, take_lost_plan, write_plan
from target_recurly_engage.destinations import known
from target_recurly_engage.ledger import Ledger, in_use_by_another
from target_recurly_engage.shared.custody import Custody, now
from target_recurly_engage.shared.place import is_shared

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping


def open_for_writing(config: Mapping[str, Any], *, who: str, logger: logging.Logger) -> Ledger:
    """Open the ledger that the settings name, wherever it lives, so that it can be changed.

    Args:
        config: the target's settings.
        who: names the run, or the command.
        logger: told of what happens on the way.

    Raises:
        ConfigRefused: the setting names no place for a ledger, or the server is not fit for one.
        StorageFailed: it is in use, or cannot be used.
        RunStopped: the bucket cannot be asked.
    """
    if not is_shared(config["ledger"]):
        wait = float(config.get("ledger_wait") or 0)
        return Ledger(Path(config["ledger"]), memory_limit=config["memory_limit"], wait=wait)
    return SharedLedger(config, who=who, logger=logger)


class SharedLedger(Ledger):
    """A ledger that was taken from a bucket.

    Args:
        config: the target's settings.
        who: names the run.
        logger: told of waiting, of what was left by others, and of the return.

    Attributes:
        custody: has it.

    Raises:
        As :func:`open_for_writing`.
    """

    shared = True

    def __init__(self, config: Mapping[str, Any], *, who: str, logger: logging.Logger) -> None:
        """Take it, bring the newest version here where it is not here yet, and open it."""
        self._logger = logger
        self._returned = False
        self.custody = Custody(config, who=who, logger=logger)
        try:
            self._open(self.custody.bring(), config["memory_limit"])
        except BaseException:
            self.custody.let_go()
            raise

    def _open(self, path: Path, memory_limit: str) -> None:
        try:
            super().__init__(path, memory_limit=memory_limit)
        except StorageFailed as e:
            current = self.custody.current
            if in_use_by_another(e) or not current["bytes"] or sha256_of(path) == current["sha256"]:
                raise  # what the bucket has is no better
            self.custody.bring_anew(path, e)
            super().__init__(path, memory_limit=memory_limit)
        try:
            self._look_at_doubts()
        except BaseException:
            self.close()
            raise

    def _look_at_doubts(self) -> None:
        """Take as unknown what others were about to send when they were last heard of."""
        for sending in self.custody.lease.content["sending"]:
            if is_known(self, sending):
                continue
            path = self.work / "doubt.parquet"
            self.custody.fetch_plan(sending, path)
            users = take_lost_plan(self, sending, path)
            path.unlink()
            self._logger.warning(
                "run %s sent to %d reader(s) and did not return the ledger; what Engage took of it is not known, so "
                "they are told in full",
                sending["run_id"],
                users,
            )

    @override
    def announce(self, delivery_id: str) -> None:
        path = self.work / "sending.parquet"
        users = write_plan(self, path)
        ((run_id, channel, location),) = self.connection.execute(
            "SELECT run_id, channel, location FROM deliveries WHERE delivery_id = ?", [delivery_id]
        ).fetchall()
        sending = {
            "delivery_id": delivery_id, "run_id": run_id, "channel": channel, "location": location, "users": users,
            "at": now(), "destination": next((asdict(one.addresses) for one in known(self) if one.is_current), None),
        }  # fmt: skip
        self.custody.put_plan(sending, path)
        path.unlink()

    @override
    def hold(self) -> None:
        self.custody.lease.hold()

    @override
    def give_back(self, *, passing: bool = False) -> None:
        if self._returned:
            return
        self._returned = True
        try:
            with storage_errors(f"returning {self.path}"):
                if self.path.with_name(f"{self.path.name}.wal").exists():
                    msg = f"ledger: {self.path} could not be closed."
                    raise StorageFailed(msg)
                self.custody.put(self.path, forget=self.forgets, passing=passing)
        except RunStopped as e:
            self.custody.let_go()
            msg = (
                f"{e} The ledger of {self.custody.place} was NOT returned: what Engage took in this run stands in "
                f"{self.path} on this machine alone. The next run here goes on with it; one elsewhere tells these "
                "readers in full. No STATE went out."
            )
            raise type(e)(msg) from e

    def moved(self, to: str) -> None:
        """Let the closed ledger go for ever: whoever takes it is told where it is.

        Raises:
            RunStopped: that could not be noted.
        """
        self._returned = True
        self.custody.let_go(moved_to=to)
        self.custody.cache.drop(self.path)
