"""What Engage keeps of one user, and of one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.engage.segments import Records
    from piano_engage_sandbox.engage.values import Clear, Value

WRITES_KEPT: Final = 10
"""Writes of a user that can be looked at; older ones are forgotten, not what they wrote."""


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One write. Names and values stand apart because a file's rows share their names."""

    at: float
    """Seconds since 1970, by the sandbox's clock."""
    source: str
    """`api`, `query`, `ping`, `csv` …"""
    names: tuple[str, ...]
    values: tuple[Value | Clear, ...]

    @property
    def properties(self) -> dict[str, Value | Clear]:
        """What was written."""
        return dict(zip(self.names, self.values, strict=True))


@dataclass(slots=True, eq=False)
class User:
    """A user as Engage has it. Moments are seconds since 1970."""

    id: str
    created: float
    """First seen."""
    active: float
    """Last active: what the 90 days of retention are counted from."""
    _segments: Callable[[str], list[str]]
    anonymous: bool = False
    """Whether the id is an anonymous one."""
    anonymous_id: str | None = None
    """The anonymous id it was written together with."""
    traits: dict[str, Value] = field(default_factory=dict)
    written: dict[str, Write] = field(default_factory=dict)
    """Of each trait, the last write that named it, changed or not."""
    writes: list[Write] = field(default_factory=list)
    """The last writes, oldest first, at most `WRITES_KEPT`; a list because an empty deque takes 600 bytes."""
    collections: Records = field(default_factory=dict)
    """Records by name of the collection."""

    @property
    def segments(self) -> list[str]:
        """Names of the segments it is in."""
        return self._segments(self.id)

    @property
    def last_written(self) -> float | None:
        """Moment of the last write."""
        return self.writes[-1].at if self.writes else None

    @property
    def source(self) -> str | None:
        """What the last write came by."""
        return self.writes[-1].source if self.writes else None


Status = Literal["waiting", "reading", "done", "refused", "ignored"]


@dataclass(slots=True, eq=False)
class IngestedFile:
    """A file of the ingest folder, as Pulse's App Messages would tell of it."""

    key: str
    size: int
    """Bytes."""
    uploaded: float
    status: Status = "waiting"
    """`refused` files changed nothing; `ignored` ones hold push tokens, which the sandbox does not keep."""
    read_at: float | None = None
    """When its reading was finished."""
    rows: int = 0
    """Rows read, good or not; the header is none."""
    users: int = 0
    """Users written."""
    dropped: list[str] = field(default_factory=list)
    """Columns that were not processed."""
    errors: list[str] = field(default_factory=list)
    """What was wrong, in words; the first hundred."""
    skipped: int = 0
    """Rows that were not processed."""
