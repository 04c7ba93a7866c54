"""What is known of an application's runs after the last one: a small file in ``runs_path``, which monitors ask.

It outlives a ledger that cannot be opened, and nobody has to wait for the ledger to read it. No reader stands in it.
"""

from __future__ import annotations

import fcntl
import json
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final

from target_recurly_engage.told import masked, message_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.summary import Summary

FILE: Final = "watch/status.json"
"""Below `runs_path`, in a folder of its own: all JSON beside it is summaries."""
LOCK: Final = "watch/lock"
PATIENCE: Final = 60.0
"""Seconds to wait for who is about to change the status; receivers that are slow must not hold up a run for ever."""
NAMELESS: Final = "default"
KIND: Final = "+"
"""Between the streams of a kind."""
SIGNALLED: Final = 128
"""Exit codes from here on say that somebody ended the run, which tells nothing of the application."""
COUNTS: Final = ("seconds", "peak_memory_mb", "rows", "erased_rows", "users", "segments")
SHORTEST_SECRET: Final = 4
"""Characters; a shorter value is not looked for in texts, for it would be found everywhere."""


@dataclass(slots=True, kw_only=True)
class Status:
    """How an application is.

    Attributes:
        application: its name; the label of metrics.
        run_id: the last run, where it came as far as having a name.
        run_status: as in the ledger's table ``runs``.
        exit_code: how that run ended.
        incomplete: it ended with 0, but the tap did not end well.
        message: why, where it did not go well.
        started_at: when it began, in ISO 8601.
        finished_at: when it ended.
        succeeded_at: when a run last ended with 0, and complete.
        watched_since: when somebody first looked, where no run had ended yet.
        now: the moment by which the age of data is judged, where a setting says so (`as_of`).
        summary: counts of that run, by the names of its summary.
        ledger: counts of the ledger after the last run that had it.
        ends: how the last run of each kind ended: its exit code, message, and whether it was incomplete. The kind is
            the streams that came.
        told: what the receiver of alerts was told last, by condition.
    """

    application: str = NAMELESS
    run_id: str | None = None
    run_status: str | None = None
    exit_code: int = 0
    incomplete: bool = False
    message: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    succeeded_at: str | None = None
    watched_since: str | None = None
    now: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Status | None:
        """Read the file; None where there is none, or one that is not ours."""
        with suppress(OSError, ValueError, TypeError):
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            known = {one.name for one in fields(cls)}
            return cls(**{name: value for name, value in content.items() if name in known})
        return None

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        part = folder / f"{FILE}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(folder / FILE)
        finally:
            part.unlink(missing_ok=True)

    def note(
        self, *, code: int, message: str | None, summary: Summary | None, streams: Iterable[str], now: datetime
    ) -> None:
        """Take over how a run ended; what it did not learn stays as it was.

        Jobs of several kinds share an application, and one that goes well says nothing of another. Only a run that
        brought all streams of another kind answers for that, too.
        """
        ended = now.isoformat()
        told = summary.as_dict() if summary else {}
        self.run_id, self.run_status = told.get("run_id"), told.get("status") or "stopped"
        self.incomplete = code == 0 and bool(told.get("incomplete"))
        self.exit_code, self.message = code, message or (masked(told["message"]) if self.incomplete else None)
        self.started_at, self.finished_at = told.get("started_at") or ended, told.get("finished_at") or ended
        self.now, self.summary = told.get("as_of"), counts_of(told)
        self.ledger = told.get("ledger") or self.ledger
        came = set(streams)
        if code < SIGNALLED:
            self.ends[KIND.join(sorted(came))] = {
                "run_id": self.run_id, "exit_code": code, "message": self.message, "incomplete": self.incomplete,
            }  # fmt: skip
        if code == 0 and not self.incomplete:
            self.succeeded_at = self.finished_at
            for kind, end in self.ends.items():
                if set(filter(None, kind.split(KIND))) <= came:
                    end |= {"run_id": self.run_id, "exit_code": 0, "message": None, "incomplete": False}

    @property
    def failing(self) -> dict[str, dict[str, Any]]:
        """The kinds of runs of which the last one did not go well."""
        return {kind: end for kind, end in self.ends.items() if end["exit_code"] or end.get("incomplete")}

    def age_hours(self, now: datetime) -> float | None:
        """Say how old the newest change is that Piano told of."""
        newest = self.ledger.get("newest_change")
        if newest is None:
            return None
        moment = _aware(self.now) if self.now else now
        return (moment - _aware(newest)).total_seconds() / 3600

    def silent_hours(self, now: datetime) -> float | None:
        """Say how long ago the last run ended, whichever way; where none ever did, how long somebody has looked."""
        since = self.finished_at or self.watched_since
        return (now - _aware(since)).total_seconds() / 3600 if since else None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let nobody else change the status in the ``with`` block: what another one notes meanwhile would be lost.

    A folder that keeps no locks is done without, and so is a lock that nobody lets go.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path = folder / LOCK
            path.parent.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(path.open("a")))
        yield


def _lock(file: IO[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)


def counts_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """Take the counts out of a summary: its texts may repeat what a vendor said of a reader."""
    requests, brake = told.get("requests") or {}, told.get("brake") or {}
    return (
        {
            **{name: told.get(name) for name in COUNTS},
            "requests": {name: value for name, value in requests.items() if isinstance(value, int | float)},
            "files": [{"bytes": file["bytes"]} for file in told.get("files") or []],
            "brake": {
                "let_through": bool(brake.get("let_through")),
                "findings": sum(check["wrong"] for check in brake.get("checks") or []),
            },
        }
        if told
        else {}
    )


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def ledger_facts(ledger: Ledger, now: datetime) -> dict[str, Any]:
    """Count what a monitor wants to know of the ledger; changes later than *now* are not believed."""
    count, changed = ledger.count, "coalesce(modify_time, start_date)"
    newest_of = f"SELECT max({changed}) FILTER ({changed} <= ?), min(aid) FROM subscriptions"
    ((newest, aid),) = ledger.connection.execute(newest_of, [now]).fetchall()
    return {
        "aid": aid,
        "bytes": ledger.path.stat().st_size,
        "subscriptions": count("SELECT count(*) FROM subscriptions"),
        "readers": count("SELECT count(*) FROM delivered"),
        "rejected": count("SELECT count(*) FROM rejects WHERE isfinite(next_at)"),
        "dropped": count("SELECT count(*) FROM rejects WHERE NOT isfinite(next_at)"),
        "invalid": count("SELECT count(*) FROM invalid"),
        "open_deliveries": count("SELECT count(*) FROM deliveries WHERE status IN ('writing', 'complete', 'sending')"),
        "newest_change": newest.astimezone(UTC).isoformat() if newest else None,
    }


def words_of(error: BaseException | None, summary: Summary | None, secrets: Mapping[str, Any]) -> str | None:
    """Say why a run ended, for those who are not in the house: no secret, no address; of a surprise only its name.

    Args:
        error: what ended it.
        summary: of the run, where there was one.
        secrets: the settings that nobody may see, by name.
    """
    if error is None:
        return None
    from piano_engage_common.stops import RunStopped  # noqa: PLC0415 - only for an end that is not well

    if isinstance(error, RunStopped):
        words = masked(str(error))
    elif summary is not None and summary.message:
        words = str(message_of({"message": summary.message, "status": summary.status}))
    else:
        words = type(error).__name__
    for value in secrets.values():
        if isinstance(value, str) and len(value) >= SHORTEST_SECRET:
            words = words.replace(value, "…")
    return words
