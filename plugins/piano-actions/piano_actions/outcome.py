"""What became of an action: one small object for a person, a prompt, and a program."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How an action ended."""

    DONE = "done"
    """Piano did it, and was read back."""
    ALREADY = "already"
    """It was so before; nothing was asked of Piano."""
    REFUSED = "refused"
    """It cannot be done, and was not; `reason` says why."""
    PENDING = "pending"
    """Piano took it on, and does it later."""
    UNKNOWN = "unknown"
    """Piano may have done it or not: it did not answer, and reading back did not tell."""
    WOULD = "would"
    """A dry run: this is what would be done."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action.

    Attributes:
        action: its name.
        status: how it ended.
        reason: a word for a program: one of :data:`piano_actions.words.SENTENCES`.
        message: a sentence that a prompt can show.
        details: what else is known: ids, dates as ISO 8601 in UTC, Piano's code.
    """

    action: str
    status: Status
    reason: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def well(self) -> bool:
        """Whether the reader has, or is about to have, what was asked for."""
        return self.status in {Status.DONE, Status.ALREADY, Status.PENDING, Status.WOULD}

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "action": self.action,
            "status": str(self.status),
            "reason": self.reason,
            "message": self.message,
            **({"details": self.details} if self.details else {}),
        }

    @classmethod
    def of(cls, found: dict[str, Any]) -> Outcome:
        """Read what :meth:`as_dict` gave."""
        return cls(
            found["action"], Status(found["status"]), found["reason"], found["message"], found.get("details") or {}
        )
