"""Where Engage's collection filters would take more readers than is meant.

Engage judges each filter on a collection by itself, over all subscriptions of a reader (its fact sheet, 3.3). So
*Premium* and *active* hold for a reader whose Premium has expired and whose Basic is active. Our compound traits ask
one and the same subscription, and our segments the primary one. Here the readers are counted for whom that makes a
difference, so that nobody builds the same audience from collection filters without knowing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name

from target_recurly_engage.computed import lives
from target_recurly_engage.desired import of_log
from target_recurly_engage.predicates import holds
from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.segments import Segment
    from target_recurly_engage.traits import Trait

_STAGE: Final = "lifecycle_stage"
"""The one computed trait that can be asked of each subscription."""
_SEVERAL: Final = "user_id IN (SELECT user_id FROM subscriptions GROUP BY user_id HAVING count(*) > 1)"
"""Of one subscription alone nothing can be apart."""


def apart(ledger: Ledger, contract: Contract, now: str, today: str) -> Iterator[str]:
    """Yield a warning where some readers meet all conditions, and no subscription of theirs does; after ``desire``."""
    source = lives(contract.primary, now=now, zone=contract.wording.zone, tenure=False, only=_SEVERAL)
    compound = {f"the trait {one.name}": one.asks for one in contract.formulas}
    rows = {f"the segment {one.name}": conditions for one, conditions in _rows(contract, today)}
    for asked, relation in ((compound, source), (rows, _profiles(contract, source))):
        for what, count in _count(ledger, relation, {what: one for what, one in asked.items() if len(one) > 1}).items():
            if count:
                yield (
                    f"{what}: {count:,} reader(s) meet its conditions only by different subscriptions, so they are "
                    "not in it; collection filters, which Engage judges one by one, would take them"
                )


def _count(ledger: Ledger, source: str, asked: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Count the readers of each who meet each condition by some subscription, and all of them by none."""
    if not asked:
        return {}
    cells = [
        f"{' AND '.join(f'bool_or({one})' for one in conditions)} AND NOT bool_or({' AND '.join(conditions)}) AS c{i}"
        for i, conditions in enumerate(asked.values())
    ]
    counts = ", ".join(f"count_if(c{i})" for i in range(len(cells)))
    query = f"SELECT {counts} FROM (SELECT {', '.join(cells)} FROM ({source}) GROUP BY user_id)"
    ((*found,),) = ledger.connection.execute(query).fetchall()
    return {what: count or 0 for what, count in zip(asked, found, strict=True)}


def _of_each(trait: Trait | None) -> bool:
    """Whether a trait can be asked of each subscription."""
    return trait is not None and trait.stream is None and (not trait.computed or trait.key == _STAGE)


def _rows(contract: Contract, today: str) -> Iterator[tuple[Segment, tuple[str, ...]]]:
    """Give the SQL of the rows of each segment that ask of a subscription and take, rather than leave out."""
    clear = {Kind.STRING: contract.wording.clear_string, Kind.BOOLEAN: contract.wording.clear_boolean}
    for one in contract.segments:
        rows = [row for row in one.filters if _of_each(row.trait) and not row.exclude]
        yield one, tuple(holds(row, today, clear) for row in rows)


def _profiles(contract: Contract, source: str) -> str:
    """Make the SQL of all subscriptions with what segments ask of, as :func:`.desired.desire` does for the primary."""
    traits = {trait for one in contract.segments for trait in one.traits if _of_each(trait)}
    cells = [
        f"{'stage' if trait.key == _STAGE else of_log(trait, contract.wording)} AS {name(trait.key)}"
        for trait in sorted(traits, key=lambda one: one.key)
    ]
    return f"SELECT {', '.join(['user_id', *cells])} FROM ({source}) AS subscriptions"
