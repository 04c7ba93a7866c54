"""What is wrong with the settings: collected, so that all of it can be told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from piano_engage_common.stops import ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

_FEW = 12


@dataclass(slots=True)
class Problems:
    """What was found.

    Attributes:
        found: sentences that begin with the path of the setting.
    """

    found: list[str] = field(default_factory=list)

    def add(self, path: str, what: str) -> None:
        """Note that the setting at *path* cannot be used, because of *what*."""
        self.found.append(f"{path}: {what}.")

    def check(self) -> None:
        """End here when there is something.

        Raises:
            ConfigRefused: names everything that was found.
        """
        if len(self.found) == 1:
            raise ConfigRefused(self.found[0])
        if self.found:
            msg = f"{len(self.found)} settings cannot be used. " + " ".join(
                f"({i}) {one}" for i, one in enumerate(self.found, 1)
            )
            raise ConfigRefused(msg)


def suggestion(given: str, known: Iterable[str]) -> str:
    """Say what may have been meant instead of *given*: the nearest of *known*, or all of them when they are few."""
    names = list(known)
    if near := get_close_matches(given, names, n=1):
        return f"; did you mean {near[0]}"
    if 0 < len(names) <= _FEW:
        return f"; there is {', '.join(names)}"
    return ""
