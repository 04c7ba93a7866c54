"""Which streams ended well, as far as the messages tell: a pipe does not say whether the tap failed.

tap-piano removes :data:`ENDED` from the bookmark of every stream when it starts, and writes it into the last STATE of
a stream that ended well. Where a tap writes it for one stream, or wrote it lately, its absence means that the stream
broke off. Of other taps a stream counts as ended where a STATE, or an ACTIVATE_VERSION, came after its last row; a
bookmark with progress markers is one that the SDK has not finished, and ``currently_syncing`` names one that other taps
have not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from target_recurly_engage.ledger import Ledger

ENDED: Final = "ended"
"""In a stream's bookmark: the moment at which it ended well."""

INCOMPLETE: Final = "incomplete"
"""Status of a run that went well, but whose tap did not end well."""

REMEMBERED: Final = 7
"""Earlier runs that are looked at: whether their tap wrote :data:`ENDED`, and which streams came."""

_ADVICE: Final = "Look into the tap's log, and run it again."
_NOTHING: Final = (
    "Nothing came from the tap: it did not start, was refused, or ended before its first stream. Nothing was planned "
    f"or sent. {_ADVICE}"
)


class Ends:
    """Follows the messages of a run.

    Attributes:
        marked: streams whose bookmark in the last STATE has :data:`ENDED`.
        mentioned: streams of which the last STATE has a bookmark.
    """

    def __init__(self) -> None:
        """Begin before the first message."""
        self.marked: set[str] = set()
        self.mentioned: set[str] = set()
        self._open: set[str] = set()
        self._marks = False

    def begun(self, stream: str) -> None:
        """Record that a SCHEMA, or rows, of a stream came."""
        self._open.add(stream)

    def version(self, stream: str) -> None:
        """Record that an ACTIVATE_VERSION came."""
        self._open.discard(stream)

    def state(self, value: object) -> None:
        """Record a STATE."""
        content = value if isinstance(value, dict) else {}
        found = content.get("bookmarks")
        bookmarks = found if isinstance(found, dict) else {}
        self.mentioned = set(bookmarks)
        self.marked = {stream for stream, one in bookmarks.items() if isinstance(one, dict) and one.get(ENDED)}
        self._marks = self._marks or bool(self.marked)
        self._open = {
            stream
            for stream in self._open
            if _in_progress(bookmarks.get(stream)) or content.get("currently_syncing") == stream
        }

    def well(self, stream: str, before: Iterable[dict[str, Any]] = ()) -> bool:
        """Return whether a stream ended well.

        Args:
            stream: its name.
            before: what earlier runs kept of their streams, as :meth:`kept` makes it.
        """
        if self._marks or any(one.get(stream, {}).get("marked") for one in before):
            return stream in self.marked
        return stream not in self._open

    def kept(self, streams: Iterable[str], before: Iterable[dict[str, Any]]) -> dict[str, dict[str, bool]]:
        """Return what the summary keeps of the streams that came."""
        return {one: {"ended": self.well(one, before), "marked": one in self.marked} for one in streams}

    def problems(self, streams: list[str], before: list[dict[str, Any]]) -> Iterator[str]:
        """Yield sentences on what did not end well.

        Args:
            streams: those with a role that came.
            before: as in :meth:`well`.
        """
        if not streams:
            yield _NOTHING
            return
        broken = [one for one in streams if not self.well(one, before)]
        if broken:
            yield (
                f"The tap broke off: {_listed(broken)} did not end well. What came of it was taken in, and the next "
                f"run reads the rest. {_ADVICE}"
            )
        known = {stream for one in before for stream in one}
        absent = sorted((self.mentioned - self.marked) & known - set(streams)) if self._marks or broken else []
        if absent:
            yield (
                f"The tap broke off, or leaves it out now: {_listed(absent)} did not come, though the tap's state has "
                f"a bookmark of it and an earlier run brought it. {_ADVICE}"
            )


def streams_before(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what the summaries of the last runs keep of their streams."""
    query = "SELECT summary->'$.streams' FROM runs WHERE summary IS NOT NULL ORDER BY started_at DESC LIMIT ?"
    found = ledger.connection.execute(query, [REMEMBERED]).fetchall()
    return [json.loads(streams) for (streams,) in found if streams and streams != "null"]


def _listed(streams: list[str]) -> str:
    return f"{'stream' if len(streams) == 1 else 'streams'} {', '.join(streams)}"


def _in_progress(bookmark: object) -> bool:
    """Return whether a bookmark, or one of its partitions, has progress markers of the SDK."""
    if not isinstance(bookmark, dict):
        return False
    parts = bookmark.get("partitions")
    return bool(bookmark.get("progress_markers")) or any(map(_in_progress, parts if isinstance(parts, list) else ()))
