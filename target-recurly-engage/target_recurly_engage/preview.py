"""What segments hold before anything is sent: counts, overlaps, what changed, and a few readers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name

from target_recurly_engage.apart import apart
from target_recurly_engage.desired import desire, forget_desired, today_of
from target_recurly_engage.eligibility import asked_of, counts, unknown_promotions
from target_recurly_engage.handed_codes import unusable_codes
from target_recurly_engage.predicates import member
from target_recurly_engage.promotions import promotions_of
from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.segments import Segment

SAMPLE: Final = 10
_ABOUT_VALUES: Final = frozenset({Kind.STRING})
"""Types of which a value that nobody has is a mistake, as a rule."""
_TRUE: Final = "true"


def preview(ledger: Ledger, contract: Contract, now: str) -> dict[str, Any]:
    """Work out who is in which segment by what the ledger holds of Piano, and compare with what Engage was told.

    Args:
        ledger: the ledger; nothing in it changes.
        contract: which segments there are.
        now: the moment that counts as now, as ISO 8601.

    Returns:
        ``readers``, and by segment: ``matches`` (all filters hold), ``readers`` (told to be in it, after priority and
        hold-back), ``entering`` and ``leaving`` (against what Engage was told), ``sample``, ``overlaps`` with others;
        by promotion that segments ask of: ``readers`` who may use it, and ``against`` how many stands what.
    """
    needed = replace(contract.for_segments(), experiments=contract.experiments, audience=contract.audience)
    desire(ledger, needed, now)
    today = today_of(ledger, contract.wording, now)
    try:
        if not contract.segments:
            return {
                "readers": ledger.count("SELECT count(*) FROM primaries"),
                "segments": {},
                "promotions": {},
                "warnings": [*unusable_codes(ledger, needed, now), *apart(ledger, contract, now, today)],
            }
        return {
            "readers": ledger.count("SELECT count(*) FROM matches"),
            "segments": _segments(ledger, needed),
            "promotions": _promotions(ledger, contract, now),
            "warnings": [
                *unseen_values(ledger, needed),
                *unknown_promotions(ledger, contract),
                *unusable_codes(ledger, needed, now),
                *apart(ledger, contract, now, today),
            ],
        }
    finally:
        forget_desired(ledger)


def sizes(ledger: Ledger, contract: Contract) -> dict[str, dict[str, int]]:
    """Count the readers of each segment, those who enter it, and those who leave it; a plan was made just now.

    Returns:
        By segment ``matches``, ``readers``, ``entering`` and ``leaving``, as in :func:`preview`.
    """
    if not contract.segments:
        return {}
    before, cells = _told_before(ledger, contract), []
    for one in contract.segments:
        inside = name(f"told {one.name}")
        cells += [
            f"count_if({member(one.name)})", f"count_if({inside})",
            f"count_if({inside} AND NOT {before[one.name]})", f"count_if(NOT {inside} AND {before[one.name]})",
        ]  # fmt: skip
    joined = "matches JOIN audience USING (user_id) LEFT JOIN delivered AS told USING (user_id)"
    ((*counts,),) = ledger.connection.execute(f"SELECT {', '.join(cells)} FROM {joined}").fetchall()
    names = ("matches", "readers", "entering", "leaving")
    return {
        one.name: {what: count or 0 for what, count in zip(names, counts[4 * i : 4 * i + 4], strict=True)}
        for i, one in enumerate(contract.segments)
    }


def _segments(ledger: Ledger, contract: Contract) -> dict[str, Any]:
    counted, shared = sizes(ledger, contract), _overlaps(ledger, contract)
    return {
        one.name: counted[one.name]
        | {"description": one.description, "sample": _sample(ledger, one), "overlaps": shared[one.name]}
        for one in contract.segments
    }


def _promotions(ledger: Ledger, contract: Contract, now: str) -> dict[str, dict[str, Any]]:
    asked = asked_of(contract)
    if not asked:
        return {}
    return counts(ledger, {one: known for one, known in promotions_of(ledger, now).items() if one in asked})


def _overlaps(ledger: Ledger, contract: Contract) -> dict[str, dict[str, int]]:
    """Count for each two segments the readers of both."""
    columns = [name(f"told {one.name}") for one in contract.segments]
    cells = ", ".join(f"count_if({one} AND {other})" for one in columns for other in columns)
    ((*counts,),) = ledger.connection.execute(f"SELECT {cells} FROM audience").fetchall()
    found, shared = {}, iter(counts)
    for one in contract.segments:
        both = {other.name: next(shared) or 0 for other in contract.segments}
        found[one.name] = {other: count for other, count in both.items() if count and other != one.name}
    return found


def _told_before(ledger: Ledger, contract: Contract) -> dict[str, str]:
    """Make for each segment the SQL that says whether Engage was told that a reader is in it."""
    columns, found = ledger.columns("delivered"), {}
    traits = {trait.key: trait.name for trait in contract.audience}
    for one in contract.segments:
        if contract.listed:
            column = traits["segments"]
            holds = f"list_contains(string_split(told.{name(column)}, ','), '{one.name}')"
        else:
            column = traits[f"told {one.name}"]
            holds = f"told.{name(column)} = '{_TRUE}'"
        found[one.name] = f"coalesce({holds}, false)" if column in columns else "false"
    return found


def _sample(ledger: Ledger, segment: Segment) -> list[str]:
    """Name a few readers, not the first ones by name but always the same."""
    query = f"SELECT user_id FROM audience WHERE {name(f'told {segment.name}')} ORDER BY hash(user_id) LIMIT {SAMPLE}"
    return [user for (user,) in ledger.connection.execute(query).fetchall()]


def unseen_values(ledger: Ledger, contract: Contract) -> Iterator[str]:
    """Yield a warning for each text that a filter asks for and that no subscription has; :func:`desire` came before."""
    for segment in contract.segments:
        for row in (one for filter_ in segment.filters for one in filter_.walk()):
            trait = row.trait
            if trait is None or trait.stream or row.operator != "one_of" or trait.kind not in _ABOUT_VALUES:
                continue
            column, table = name(trait.key), "computed" if trait.computed else "subscriptions"
            query = f"SELECT DISTINCT {column} FROM {table} WHERE lower({column}) IN (SELECT lower(unnest(?)))"
            seen = {value for (value,) in ledger.connection.execute(query, [list(row.values)]).fetchall()}
            closed = {value for one in contract.formulas if one.name == trait.key for value in one.values}
            absent = contract.wording.clear_value(trait)
            for value in row.values:
                if value not in seen | closed | {absent}:
                    near = min((one for one in seen if one.lower() == value.lower()), default=None)
                    hint = f"; there is {near!r}, and Engage tells small from capital letters" if near else ""
                    yield f"{row.path}: no reader has {trait.key} {value!r}{hint}"


def words_of(found: dict[str, Any]) -> Iterator[str]:
    """Put a preview into words."""
    yield f"{found['readers']:,} readers, {len(found['segments'])} segments"
    for segment, one in found["segments"].items():
        back = f" ({one['matches']:,} match)" if one["matches"] != one["readers"] else ""
        share = 100 * one["readers"] / found["readers"] if found["readers"] else 0
        yield (
            f"{segment}: {one['readers']:,} readers{back}, {share:.1f} %; "
            f"{one['entering']:,} enter, {one['leaving']:,} leave"
        )
        if one["description"]:
            yield f"    {one['description']}"
        if one["overlaps"]:
            yield "    also in " + ", ".join(f"{other} {count:,}" for other, count in one["overlaps"].items())
        if one["sample"]:
            yield "    such as " + ", ".join(one["sample"])
    for promotion, one in found["promotions"].items():
        against = ", ".join(f"{reason} {count:,}" for reason, count in one["against"].items() if count)
        validity = f"not valid now: {one['why_not']}; " if one["why_not"] else ""
        yield f"promotion {promotion} ({one['name']}): {validity}{one['readers']:,} readers may use it"
        if against:
            yield f"    against it: {against}"
    yield from (f"warning: {warning}" for warning in found["warnings"])
