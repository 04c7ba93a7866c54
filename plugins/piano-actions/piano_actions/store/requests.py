"""What is asked for, what is ours to do, and why it may not be."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for.

    Attributes:
        action: its name.
        user_id: the reader.
        params: all else, texts and truth values.
        key: two requests with the same one are one.
        made: the key was made of what is asked for, so the same wish a day later has it too.
        language: the user's, for the sentence of the answer; it makes no other request of one.
    """

    action: str
    user_id: str
    params: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    made: bool = False
    language: str | None = field(default=None, compare=False)

    @property
    def body(self) -> str:
        """A digest of what is asked for, without the key."""
        asked = json.dumps([self.action, self.user_id, dict(self.params)], sort_keys=True)
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Claim:
    """An action that is ours to do.

    Attributes:
        id: of its row.
        request: what is asked for.
        chosen: what was found out before a crash, such as which subscription is meant.
        age: seconds since it was asked for.
    """

    id: str
    request: Request
    chosen: Mapping[str, Any]
    age: float = 0.0


class InFlight(Exception):  # noqa: N818 - no error: somebody is at it
    """The same request is being worked on."""


class ReaderBusy(Exception):  # noqa: N818 - no error either
    """Another action of the same reader is being worked on."""


class KeyTaken(Exception):  # noqa: N818 - what happened
    """The key was used for another request."""
