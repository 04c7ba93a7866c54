"""What an administrator types into Pulse, and where Engage would understand it otherwise than we do.

There is no API for segments at Engage. So each segment comes as a trait, which needs one row; and, for whoever would
rather build it from the traits themselves, as the rows of its filters, with what these cannot say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.filters import Filter
    from target_recurly_engage.segments import Segment
    from target_recurly_engage.traits import Trait, Wording

DISPLAYS: Final = {
    Kind.STRING: "multi-select", Kind.BOOLEAN: "multi-select", Kind.NUMBER: "slider", Kind.MONEY: "slider",
    Kind.DATE: "date_range",
}  # fmt: skip
"""How Pulse shows a trait of each type (fact sheet of Engage, 3.1)."""

TYPES: Final = {kind: "number" if kind is Kind.MONEY else str(kind) for kind in Kind}
"""What Pulse calls each type."""


def pulse(contract: Contract) -> dict[str, Any]:
    """Give for each segment the row of its trait, the rows of its filters, and warnings."""
    sent = {trait.key: trait for trait in contract.traits}
    return {segment.name: _segment(segment, contract, sent) for segment in contract.segments}


def _segment(segment: Segment, contract: Contract, sent: dict[str, Trait]) -> dict[str, Any]:
    if contract.listed:
        row = {"trait": sent["segments"].name, "way": "Include", "values": segment.name}
    else:
        row = {"trait": sent[f"told {segment.name}"].name, "way": "Include", "values": "true"}
    warnings = [] if not contract.listed else [
        f"{row['trait']} holds several names by commas; how a multi-select of Engage treats a comma is not documented",
    ]  # fmt: skip
    rows: list[dict[str, str]] = []
    for one in segment.filters:
        warnings += _warnings(one, contract, sent)
        rows += _rows(one, sent)
    if segment.holdback:
        warnings.append(f"the rows know nothing of the {100 * segment.holdback:g} % that are held back")
    if segment.exclusive:
        warnings.append(f"the rows know nothing of priority in {segment.exclusive}: a reader may match several")
    return {"description": segment.description, "row": row, "rows": rows, "warnings": warnings}


def _rows(one: Filter, sent: dict[str, Trait]) -> Iterator[dict[str, str]]:
    if one.trait is None:
        return
    way = "Exclude" if one.exclude else "Include"
    name = sent[one.trait.key].name if one.trait.key in sent else one.trait.key
    yield {"trait": name, "way": way, "values": _values(one)}


def _values(one: Filter) -> str:
    values = [str(value).lower() if isinstance(value, bool) else str(value) for value in one.values]
    return {
        "one_of": ", ".join(values),
        "between": " to ".join(values),
        "at_least": f"from {values[0] if values else ''} up",
        "at_most": f"up to {values[0] if values else ''}",
        "before": f"before {values[0] if values else ''}",
        "after": f"after {values[0] if values else ''}",
        "within_next_days": f"today to today + {values[0] if values else ''} days",
        "within_last_days": f"today - {values[0] if values else ''} days to today",
        "is_set": "(any value)",
    }[one.operator]


def _warnings(one: Filter, contract: Contract, sent: dict[str, Trait]) -> Iterator[str]:
    if one.any_of:
        yield "the rows of one segment are joined by AND: any_of needs a segment for each choice, all on the prompt"
        return
    if one.segment:
        yield f"asks of the segment {one.segment}, for which Pulse has no row; its own rows have to be added"
        return
    if one.promotion:
        yield f"asks who may use the promotion {one.promotion}, for which Pulse has no row; use the segment's own trait"
    trait = one.trait
    if trait is None:
        return
    if trait.key not in sent:
        yield f"{trait.key} is not sent; add it to traits, or use the segment's own trait"
    if one.operator == "is_set":
        yield f"{trait.key}: Pulse shows no operator for 'is set'; exclude {contract.wording.clear_value(trait)!r}"
    if len(next((formula.asks for formula in contract.formulas if formula.name == trait.key), ())) > 1:
        yield (
            f"{trait.key} asks one and the same subscription, which collection filters cannot: Engage judges each of "
            "them by itself, so they would take a reader with one subscription that is live and another that is meant"
        )
    yield from _broader(one, trait, contract.wording)
    if trait.drifts and trait.key in sent:
        missing = [f"{edge:g}" for edge in _edges(one) if edge not in trait.thresholds]
        if missing:
            steps = ", ".join(f"{step:g}" for step in trait.thresholds)
            yield (
                f"{trait.key} is told only where it crosses {steps}, so the row would be late; "
                f"add {' and '.join(missing)} to its thresholds"
            )


def _broader(one: Filter, trait: Trait, wording: Wording) -> Iterator[str]:
    """Say where the value that clears a trait would match at Engage, and does not match here."""
    clear = wording.clear_value(trait)
    holds = False
    if trait.kind in {Kind.NUMBER, Kind.MONEY} and one.operator != "is_set":
        number = float(clear)
        low, high = _span(one)
        holds = number in {float(value) for value in one.values} if one.operator == "one_of" else low <= number <= high
    elif trait.kind is Kind.DATE and one.operator in {"after", "before", "between"}:
        first, last = str(one.values[0]), str(one.values[-1])
        holds = {"after": clear > first, "before": clear < first, "between": first <= clear <= last}[one.operator]
    if holds and not one.exclude:
        yield f"{trait.key}: a reader without one is told {clear}, which the row would take at Engage; add a bound"
    if one.operator.endswith("_days"):
        yield f"{trait.key}: how Engage bounds relative days is not documented; the segment's own trait is exact"


def _span(one: Filter) -> tuple[float, float]:
    low = float(one.values[0]) if one.operator in {"at_least", "between"} else float("-inf")
    high = float(one.values[-1]) if one.operator in {"at_most", "between"} else float("inf")
    return low, high


def _edges(one: Filter) -> list[float]:
    """Give the numbers at which a whole number begins and ceases to match."""
    low, high = _span(one) if one.operator in {"at_least", "at_most", "between"} else (float("-inf"), float("inf"))
    return [edge for edge in (low, high + 1) if abs(edge) != float("inf") and edge > 0]


def words_of(found: dict[str, Any]) -> Iterator[str]:
    """Put it into words."""
    for segment, one in found.items():
        yield f"{segment}: {one['description']}" if one["description"] else segment
        yield "    type in: {trait} {way} {values}".format(**one["row"])
        for row in one["rows"]:
            yield "    or by its filters: {trait} {way} {values}".format(**row)
        yield from (f"    warning: {warning}" for warning in one["warnings"])
