"""What all streams of the tap share: when a snapshot is complete, when a STATE says something, the faster way out."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.progress import Progress
from piano_engage_common.stops import RunStopped
from singer_sdk import Stream
from singer_sdk.mapper import SameRecordTransform
from typing_extensions import override

if TYPE_CHECKING:
    from tap_piano.tap import TapPiano


ENDED: Final = "ended"
"""In a stream's bookmark: the moment, as ISO 8601 in UTC, at which the stream ended well; absent until then."""


class PianoStream(Stream):
    """A stream of this tap.

    Args:
        tap: the tap.
        schema: JSON schema of all that can be discovered.
    """

    def __init__(self, tap: TapPiano, schema: dict[str, Any]) -> None:
        """Begin without having read anything."""
        self._wire = tap.wire
        super().__init__(tap=tap, schema=schema)
        self._progress = Progress(self.logger)
        self._snapshot: int | None = None
        self._complete = False

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log, but not the SDK's "unhandled error" about a stop, whose own message follows and says it all."""
        if not isinstance(sys.exception(), RunStopped):
            super().log(message, *args, level=level, **kwargs)

    @property
    def sampling(self) -> bool:
        """Whether this is `--test`, which wants to see no more than that it works."""
        return self.ABORT_AT_RECORD_COUNT == 1

    # State

    @property
    @override
    def is_sorted(self) -> bool:
        return True

    @property
    @override
    def check_sorted(self) -> bool:
        """The SDK would compare bookmarks as text, whatever their offset."""
        return False

    @property
    def _incremental(self) -> bool:
        return self.replication_method == "INCREMENTAL"

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        """The SDK would send it before the rows; ours follows the last one, see :meth:`_close_snapshot`."""
        return False

    @property
    def _ended_well(self) -> bool:
        """Whether nothing that was there to be read was left out, after all rows were sent."""
        return True

    def _open_snapshot(self) -> None:
        """Give what is sent a version: it is complete, so that what is absent has vanished from Piano."""
        self._snapshot = self._stream_version = self._initialized_at

    def _close_snapshot(self) -> None:
        """Write the last STATE, once all rows were sent."""
        if self._snapshot is not None:
            self._write_activate_version_message(self._snapshot)
        self._complete = True
        if self._ended_well:
            self.stream_state[ENDED] = datetime.now(tz=UTC).isoformat(timespec="seconds")
        self.state_manager.is_flushed = False
        self._write_state_message()

    @override
    def _write_state_message(self) -> None:
        """Write a STATE when it says something: a full table knows nothing to resume from before its end."""
        if self._incremental or self._complete:
            super()._write_state_message()

    # Writing

    def _beside_record(self) -> dict[str, str | int]:
        """Give what a RECORD message says beside its record: when it was read, and of which snapshot it is."""
        version = {} if self._snapshot is None else {"version": self._snapshot}
        return {"time_extracted": datetime.now(tz=UTC).isoformat()} | version

    @cached_property
    def _fast(self) -> bool:
        """Whether records can go out as they are made."""
        plain = [type(stream_map) for stream_map in self.stream_maps] == [SameRecordTransform]
        if plain and not self.config.get("flattening_enabled") and self.ABORT_AT_RECORD_COUNT is None:
            return True
        self.logger.info("%s: a stream map, flattening or a test wants each record: the slower path", self.name)
        return False


def temporary_folder() -> Path:
    """Where run folders are made."""
    return Path(gettempdir()) / "tap-piano"


def moment_of(text: str) -> datetime:
    """Read ISO 8601; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
