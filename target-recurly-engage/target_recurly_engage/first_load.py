"""What a first load lacks: without history nothing tells a broken export from a small one, so a person has to.

With history the brake compares with what Engage was sent; here it has the contract, and what logs of Piano look like.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name

from target_recurly_engage.traits import TRAITS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.traits import Trait

FLOOR: Final = 500
"""Fewer rows may look like anything."""

FILLED: Final = {
    "subscription_status": 0.9, "access_expiration_date": 0.5, "term_id": 0.9, "term_name": 0.9, "start_date": 0.9,
}  # fmt: skip
"""Share of rows in which a column has a value at the least. In logs of Piano it is all rows; of access expiration more
than 99 %, but some publishers sell much access without an end."""

_ALL_BUT: Final = 15
"""Traits left out that are still listed one by one; where there are more, those that came are listed."""


def never_delivered(ledger: Ledger, traits: Iterable[Trait]) -> list[Trait]:
    """List the *traits* of which no user has had any value at Engage, not even one that clears."""
    columns = ledger.columns("delivered")
    unknown = [trait for trait in traits if trait.name not in columns]
    known = [trait for trait in traits if trait.name in columns]
    if not known:
        return unknown
    counts = ", ".join(f"count({name(trait.name)})" for trait in known)
    (found,) = ledger.connection.execute(f"SELECT {counts} FROM delivered").fetchall()
    return [trait for trait in traits if trait in unknown or found[known.index(trait)] == 0]


def words_of_missing(missing: Collection[str], contract: Contract, offered: Collection[str]) -> str:
    """Return what to say of traits whose columns did not come: what may be meant, and the setting that goes on.

    Args:
        missing: names of the traits.
        contract: what the settings name.
        offered: properties that came.
    """
    others = sorted(set(offered) - {trait.key for trait in TRAITS})
    near = {one: get_close_matches(one, others, n=1, cutoff=0.8) for one in missing}
    meant = "".join(f"; there is {found[0]!r}: did you mean {one!r}" for one, found in near.items() if found)
    return (
        f"{', '.join(sorted(missing))} did not come, and Engage has no value of them yet: every user would be sent "
        f"that there is none{meant}. Correct the header or the selection in the tap (its log names columns that it "
        "does not know). If the export is not meant to have them, leave them out: "
        f"traits: {_setting(missing, contract)}"
    )


def _setting(missing: Collection[str], contract: Contract) -> str:
    came = [trait.key for trait in contract.own if trait.key not in missing]
    listed = ["all", *(f"-{one}" for one in sorted(missing))] if len(missing) <= _ALL_BUT else came
    return ",".join([*listed, *(["computed"] if contract.computed else [])])


def empty_columns(ledger: Ledger, table: str, came: Collection[str]) -> Iterator[tuple[str, int, int, float]]:
    """Yield columns that are far emptier than in any log of Piano: name, rows with a value, rows, least share."""
    columns = [one for one in FILLED if one in came]
    counts = ", ".join(f"count({name(one)})" for one in columns)
    if not columns:
        return
    ((rows, *filled),) = ledger.connection.execute(f"SELECT count(*), {counts} FROM {table}").fetchall()
    for one, count in zip(columns, filled, strict=True):
        if rows >= FLOOR and count < FILLED[one] * rows:
            yield one, count, rows, FILLED[one]
