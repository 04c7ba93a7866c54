"""What a plan changes, counted: readers, and by trait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from piano_engage_common.duck import name, text

if TYPE_CHECKING:
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.traits import Trait, Wording


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitChanges:
    """For one trait: how many readers get a first value, another value, or the value that clears it."""

    new: int = 0
    changed: int = 0
    cleared: int = 0


@dataclass(slots=True)
class Counts:
    """What a plan changes: readers that are new, changed, told again and gone, and by trait what TraitChanges has.

    Of the changed, *altered* are those with another value where Engage had one: not only a trait that is new.
    """

    new: int = 0
    changed: int = 0
    altered: int = 0
    again: int = 0
    gone: int = 0
    first: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)

    def add(self, **counts: int | list[int]) -> None:
        """Add those of a slice."""
        for one, more in counts.items():
            if isinstance(more, int):
                setattr(self, one, getattr(self, one) + more)
            else:
                before = getattr(self, one) or [0] * len(more)
                setattr(self, one, [a + b for a, b in zip(before, more, strict=True)])

    def by_trait(self, traits: tuple[Trait, ...]) -> dict[str, TraitChanges]:
        """Give the changes by the names of the traits; none where nothing changes."""
        if not self.new and not self.changed:
            return {}
        return {
            trait.name: TraitChanges(
                new=self.first[i] + self.other[3 * i], changed=self.other[3 * i + 1], cleared=self.other[3 * i + 2]
            )
            for i, trait in enumerate(traits)
        }


def first_values(ledger: Ledger, traits: tuple[Trait, ...], wording: Wording) -> tuple[int, list[int]]:
    """Count readers that are new, and for each trait those of them that get a value."""
    cells = ", ".join(f"count_if({name(t.name)} <> {text(wording.clear_value(t))})" for t in traits)
    query = f"SELECT count(*), {cells} FROM planned ANTI JOIN told USING (user_id)"
    ((new, *counts),) = ledger.connection.execute(query).fetchall()
    return new, [count or 0 for count in counts]  # of no rows count_if() makes NULL


def other_values(
    ledger: Ledger, traits: tuple[Trait, ...], wording: Wording, altered: str
) -> tuple[int, int, list[int]]:
    """Count known users in the plan, the *altered* ones, and by trait those with a first, another, or a clearing value.

    Args:
        ledger: the ledger, with the tables of a slice.
        traits: the traits to count.
        wording: how values are written.
        altered: SQL that says whether a user in ``plan`` has another value than in ``told``.
    """
    cells = []
    for trait in traits:
        column, clear = name(trait.name), text(wording.clear_value(trait))
        differs = f"plan.{column} IS DISTINCT FROM told.{column}"
        cells += [
            f"count_if(told.{column} IS NULL AND plan.{column} <> {clear})",
            f"count_if(told.{column} IS NOT NULL AND {differs} AND plan.{column} <> {clear})",
            f"count_if(told.{column} IS NOT NULL AND {differs} AND plan.{column} = {clear})",
        ]
    query = f"SELECT count(*), count_if({altered}), {', '.join(cells)} FROM planned AS plan JOIN told USING (user_id)"
    ((known, other, *counts),) = ledger.connection.execute(query).fetchall()
    return known, other or 0, [count or 0 for count in counts]
