"""Messages for the next run about what Engage was told: how they are called, and which are about a reader."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from typing import TYPE_CHECKING, Final

from target_recurly_engage.handover import SUFFIX, Message

if TYPE_CHECKING:
    from pathlib import Path

NAME_LETTERS: Final = 32
"""Of a reader's hash, in the name of a message."""


def name_for(user_id: str) -> str:
    """Make the name of a message, without its suffix; names of the same reader sort by time."""
    return f"{time.time_ns()}-{_in_names(user_id)}-{uuid.uuid4().hex[:8]}"


def messages_of(folder: Path, user_id: str) -> list[Path]:
    """List the messages about a reader that wait for the next run, the oldest first."""
    his = f"-{_in_names(user_id)}-"
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - thousands of names, and few paths
    return [folder / one for one in sorted(names) if his in one and one.endswith(SUFFIX)]


def message_in(path: Path) -> Message | None:
    """Read what was told; None where a run has just taken it, or it is no message."""
    try:
        return Message.read(path)
    except (OSError, ValueError):
        return None


def _in_names(user_id: str) -> str:
    """Name a reader in the names of messages; the same for whatever store, for several may leave messages."""
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()[:NAME_LETTERS]
