"""What a run did: one object, told to the log and written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

    from target_recurly_engage.brake import Brake
    from target_recurly_engage.delivery.csvs import Delivered
    from target_recurly_engage.delivery.ingest import Requests
    from target_recurly_engage.destinations import Selected
    from target_recurly_engage.merge import Merge
    from target_recurly_engage.offers import DataSource
    from target_recurly_engage.plan import Plan


@dataclass(slots=True, kw_only=True)
class Summary:
    """What became of a run.

    Attributes:
        run_id: names the run in the ledger and the file.
        started_at: when it began.
        status: ``running``, then ``finished``, ``incomplete`` (the tap did not end well), ``stopped`` or ``failed``;
            the message says why.
        message: why the run stopped, or is incomplete.
        streams: of each stream that came, whether it ended well, and whether the tap marked that.
        incomplete: what did not end well at the tap, in sentences.
        rows: rows that came.
        rejected: of these, rows that name no subscription or no reader.
        rejected_rows: rows that could not be used, by what they are of; also those of promotions, codes and terms.
        invalid_values: values that came and count as absent, by what they are of and by property.
        merge: what they did to the subscriptions.
        erased: of the rows, those of readers who were erased; they were left out.
        users: what they did to streams of users.
        api: what came of Piano's API list of subscriptions did to what the ledger holds of it.
        catalogue: what they did to promotions, promo codes and terms.
        plan: what was to be sent.
        destination: where it was to be delivered to.
        files: what was delivered in files.
        requests: what was delivered by the Ingest API.
        data_sources: files to upload in Pulse.
        assigned: readers who were told an arm of an experiment for the first time.
        segments: how many readers are in each segment, enter and leave it.
        unknown_words: status words of Piano that the map does not have, with the number of subscriptions.
        unseen: warnings of values that segments ask for and that no reader has.
        as_of: the moment that counted as now, where it was another one than when the run began.
        brake: what looked at the rows and the plan before they were sent.
        ledger: counts of the ledger at the end.
    """

    run_id: str
    started_at: datetime
    status: str = "running"
    message: str | None = None
    streams: dict[str, dict[str, bool]] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    rows: int = 0
    rejected: int = 0
    rejected_rows: dict[str, int] = field(default_factory=dict)
    invalid_values: dict[str, dict[str, int]] = field(default_factory=dict)
    merge: Merge | None = None
    erased: int = 0
    users: dict[str, Merge] = field(default_factory=dict)
    api: Merge | None = None
    catalogue: dict[str, Merge] = field(default_factory=dict)
    plan: Plan | None = None
    destination: Selected | None = None
    files: list[Delivered] = field(default_factory=list)
    requests: Requests | None = None
    data_sources: list[DataSource] = field(default_factory=list)
    assigned: int = 0
    segments: dict[str, dict[str, int]] = field(default_factory=dict)
    unknown_words: dict[str, int] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    as_of: str | None = None
    brake: Brake | None = None
    ledger: dict[str, Any] | None = None
    finished_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it; counts that are not known yet are null."""
        plan, merge = self.plan, self.merge
        seconds = ((self.finished_at or datetime.now(tz=UTC)) - self.started_at).total_seconds()
        return {
            "run_id": self.run_id,
            "status": self.status,
            "message": self.message,
            "incomplete": self.incomplete,
            "streams": self.streams,
            "started_at": self.started_at.isoformat(),
            "as_of": self.as_of,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "seconds": round(seconds, 3),
            "peak_memory_mb": _peak_memory_mb(),
            "rows": {"read": self.rows, "rejected": self.rejected},
            "rejected_rows": self.rejected_rows,
            "invalid_values": self.invalid_values,
            "subscriptions": asdict(merge) if merge else None,
            "users_streams": {stream: asdict(merge) for stream, merge in self.users.items()},
            "erased_rows": self.erased,
            "api_subscriptions": asdict(self.api) if self.api else None,
            "catalogue": {role: asdict(merge) for role, merge in self.catalogue.items()},
            "users": None
            if plan is None
            else {
                "total": plan.users,
                "new": plan.new,
                "changed": plan.changed - plan.gone,
                "cleared": plan.gone,
                "again": plan.again,
                "unchanged": plan.users - plan.size,
            },
            "traits": None if plan is None else {trait: asdict(counts) for trait, counts in plan.traits.items()},
            "invalid": None if plan is None else plan.invalid,
            "segments": self.segments,
            "unknown_status_words": self.unknown_words,
            "unseen_values": self.unseen,
            "unusable_codes": self.codes,
            "brake": None
            if self.brake is None
            else {"let_through": self.brake.let_through, "checks": [asdict(check) for check in self.brake.checks]},
            "plan": None if plan is None else plan.fingerprint,
            "destination": asdict(self.destination) | {"warning": self.destination.warning}
            if self.destination
            else None,
            "files": [asdict(file) for file in self.files],
            "requests": asdict(self.requests) if self.requests else None,
            "data_sources": [asdict(one) for one in self.data_sources],
            "assigned": self.assigned,
            "ledger": self.ledger,
        }

    def write(self, folder: Path) -> Path:
        """Write ``<run id>.json`` into *folder*, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.run_id}.json"
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return path

    def log(self, logger: logging.Logger, path: Path) -> None:
        """Tell the log in one line."""
        told = self.as_dict()
        users = told["users"] or {"total": 0, "new": 0, "changed": 0, "cleared": 0, "again": 0}
        logger.info(
            "run %s %s: %d rows, %d users, %d changes (%d new, %d changed, %d cleared), %d file(s), %.1f s, %s MB; %s",
            self.run_id,
            self.status,
            self.rows,
            users["total"],
            users["new"] + users["changed"] + users["cleared"] + users["again"],
            users["new"],
            users["changed"],
            users["cleared"],
            len(self.files),
            told["seconds"],
            told["peak_memory_mb"],
            path,
        )


def _peak_memory_mb() -> int | None:
    """Read the most memory this process had at a time; ``ru_maxrss`` would begin with what its parent had."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux
        return None
    return next((round(int(line.split()[1]) / 1024) for line in status.splitlines() if line.startswith("VmHWM")), None)
