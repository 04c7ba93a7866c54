"""Traits as Pulse lists them: how many users have one, what values there are, and its type and display."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from piano_engage_sandbox.engage.values import Kind, Value, kind_of, text_of

if TYPE_CHECKING:
    from piano_engage_sandbox.switches import EngageSwitches

Type = Literal["number", "string", "boolean", "date"]
Display = Literal["slider", "multi_select", "date_range"]

DISPLAYS: Final[dict[str, tuple[Display, ...]]] = {
    "number": ("slider", "multi_select"),
    "string": ("multi_select",),
    "boolean": ("multi_select",),
    "date": ("date_range",),
}
"""Displays each type may have, the usual one first (reference sheet of Engage, 3.1)."""

COUNTED_VALUES: Final = 10_000
"""Different values of a trait that are counted one by one; what comes after is counted together, as `others`."""


class TraitError(ValueError):
    """A type or display that does not exist, or not together."""


@dataclass(slots=True, eq=False)
class Trait:
    """A trait over all users. Its counts follow each write, so reading them costs nothing."""

    name: str
    first_seen: float
    """Moment of the first write, seconds since 1970."""
    _switches: EngageSwitches
    last_written: float = 0.0
    users: int = 0
    """Users who have it now."""
    kinds: Counter[Kind] = field(default_factory=Counter)
    """Users by what their value looks like."""
    values: Counter[str] = field(default_factory=Counter)
    """Users by the text of their value; each count is exact, but see `full`."""
    others: int = 0
    """Users with values that are not counted one by one."""
    full: bool = False
    """Whether there were too many different values once: from then on no new ones enter `values`."""
    by_hand: tuple[Type, Display] | None = None
    """Type and display an administrator has set."""
    description: str = ""

    @property
    def configured(self) -> bool:
        """Whether segments see it."""
        return self.by_hand is not None or self._switches.configured == "automatic"

    @property
    def type(self) -> Type | None:
        """Type as configured; by itself it is the commonest kind. None if not configured or never more than null."""
        if self.by_hand is not None:
            return self.by_hand[0]
        if self._switches.configured == "by_hand":
            return None
        seen: list[tuple[int, Type]] = [(self.kinds[kind], kind) for kind in get_args(Type) if self.kinds[kind]]
        return max(seen)[1] if seen else None

    @property
    def display(self) -> Display | None:
        """Display as configured; by itself it is the usual one of the type."""
        if self.by_hand is not None:
            return self.by_hand[1]
        return None if self.type is None else DISPLAYS[self.type][0]

    def configure(self, type_: str, display: str | None = None) -> None:
        """Set type and display (None: the usual one); raises TraitError."""
        if type_ not in DISPLAYS:
            msg = f"trait {self.name!r}: no type {type_!r}; there are {', '.join(DISPLAYS)}"
            raise TraitError(msg)
        found = next((d for d in DISPLAYS[type_] if display in {None, d}), None)
        if found is None:
            msg = f"trait {self.name!r}: a {type_} has no display {display!r}; it has {', '.join(DISPLAYS[type_])}"
            raise TraitError(msg)
        self.by_hand = (next(t for t in get_args(Type) if t == type_), found)

    def add(self, value: Value) -> None:
        """Count one more user with this value."""
        self.users += 1
        self.kinds[kind_of(value)] += 1
        text = text_of(value)
        if text in self.values:
            self.values[text] += 1
        elif self.full or len(self.values) >= COUNTED_VALUES:
            self.full = True
            self.others += 1
        else:
            self.values[text] = 1

    def remove(self, value: Value) -> None:
        """Count one user less with this value."""
        self.users -= 1
        _less(self.kinds, kind_of(value))
        text = text_of(value)
        if text in self.values:
            _less(self.values, text)
        else:
            self.others -= 1


def _less(counter: Counter[Kind] | Counter[str], key: Any) -> None:  # noqa: ANN401 - a key of the counter
    if counter[key] > 1:
        counter[key] -= 1
    else:
        del counter[key]
