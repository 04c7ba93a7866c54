"""Segments: the rules an administrator types in Pulse, and who passes them (reference sheet of Engage, 4).

Engage has no API for them, so they are given as a list of mappings, which may stand in a JSON or YAML file:

    - name: Trial ending
      description: those to be asked to stay       # optional
      enabled: true                                # optional; a disabled segment has no members
      filters:                                     # rows, joined by AND; none at all lets everybody in
        - {trait: in_trial, mode: include, values: ["true"]}
        - {trait: days_to_trial_end, from: 0, to: 7}
        - {trait: visits_per_month, from: 8, to: 10, normalize: true}
        - {trait: trial_end_date, date_range: {from: 2026-03-01, to: 2026-03-31}}
        - {trait: trial_end_date, date_range: {days: {from: 0, to: 3}}}
        - {collection: subscriptions, attribute: plan_code, match: include, values: [gold]}
        - {collection: subscriptions, attribute: amount, from: 10}

A row with a trait may be `mode: include` (default) or `exclude`. `values` are compared as texts, case included. Bounds
are inclusive, either may be missing. Relative days count from today; the switch `engage.date_range_sense` tells which
way. A row about a collection passes when any record of the user does (with `exclude`: when none does), and each row is
judged by itself: two rows may be met by two different records, which is documented. Nobody passes a row about a trait
that is not configured. A user without the trait passes `exclude`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from piano_engage_sandbox.engage.values import date_of, number_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from piano_engage_sandbox.engage.traits import Display, Trait
    from piano_engage_sandbox.engage.values import Value

ALL_USERS: Final = "All Users"
"""The one ready-made segment that is kept; it needs no filters."""

Records = dict[str, "list[dict[str, Value]]"]


class SegmentError(ValueError):
    """A segment that cannot be read; says which, and which of its filters."""


@dataclass(frozen=True, slots=True)
class Context:
    """What filters are judged against besides the user."""

    traits: Mapping[str, Trait]
    today: date
    sense: Literal["ahead", "back"]
    """Which way relative days count."""
    ranks: Mapping[str, Sequence[float]]
    """Sorted values of the traits that are normalized."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One row of a segment. `text` is the row as a person reads it."""

    trait: str
    """Name of the trait, or of the collection's attribute."""
    collection: str | None
    exclude: bool
    display: Display
    """Display a trait must have for such a row to be typed."""
    values: frozenset[str] = frozenset()
    low: Any = None
    high: Any = None
    relative: bool = False
    normalize: bool = False
    text: str = ""

    def matches(self, traits: Mapping[str, Value], records: Records, context: Context) -> bool:
        """Judge a user."""
        if self.collection is not None:
            found = any(self._met(record.get(self.trait), context) for record in records.get(self.collection, ()))
            return found != self.exclude
        trait = context.traits.get(self.trait)
        if trait is None or not trait.configured or (trait.by_hand is not None and trait.display != self.display):
            return False
        return self._met(traits.get(self.trait), context) != self.exclude

    def _met(self, value: Value, context: Context) -> bool:
        if value is None:
            return False
        if self.display == "multi_select":
            return text_of(value) in self.values
        if self.display == "slider":
            number = number_of(value)
            if number is not None and self.normalize:
                number = percentile(number, context.ranks.get(self.trait, ()))
            return number is not None and _between(self.low, number, self.high)
        day = date_of(value)
        return day is not None and self._in_range(day, context)

    def _in_range(self, day: date, context: Context) -> bool:
        if not self.relative:
            return _between(self.low, day, self.high)
        ahead = (day - context.today).days
        return _between(self.low, ahead if context.sense == "ahead" else -ahead, self.high)


def percentile(number: float, ranked: Sequence[float]) -> float:
    """Place a number among all users' from 0 (nobody has less) to 10 (everybody else has less)."""
    return 10 * bisect_left(ranked, number) / (len(ranked) - 1) if len(ranked) > 1 else 10.0


def _between(low: Any, value: Any, high: Any) -> bool:  # noqa: ANN401 - numbers or dates
    return (low is None or low <= value) and (high is None or value <= high)


@dataclass(slots=True, eq=False)
class Segment:
    """A segment. Its members follow the writes."""

    name: str
    id: str
    description: str = ""
    filters: tuple[Filter, ...] = ()
    enabled: bool = True
    members: set[str] = field(default_factory=set)
    """Ids of its users as Engage tells them: behind the traits by `engage.segment_delay`."""
    judged: set[str] = field(default_factory=set)
    """Ids of those who pass by what is known now."""
    definition: dict[str, Any] = field(default_factory=dict)
    """As it was given."""

    @property
    def size(self) -> int:
        """How many users are in it."""
        return len(self.members)

    @property
    def rules(self) -> list[str]:
        """Its rows as a person reads them."""
        return [row.text for row in self.filters]

    @property
    def normalized(self) -> set[str]:
        """Traits whose spread over all users decides who is a member."""
        return {row.trait for row in self.filters if row.normalize and row.collection is None}

    @property
    def ages(self) -> bool:
        """Whether members change with the day."""
        return any(row.relative for row in self.filters)

    def __contains__(self, user_id: object) -> bool:
        """Whether a user is a member."""
        return user_id in self.members

    def matches(self, traits: Mapping[str, Value], records: Records, context: Context) -> bool:
        """Judge a user: all rows must pass."""
        return self.enabled and all(row.matches(traits, records, context) for row in self.filters)


def parse(definitions: object, identify: Callable[[str], str]) -> list[Segment]:
    """Read segments; `identify` gives the id for a name. Raises SegmentError."""
    if not isinstance(definitions, list):
        msg = f"segments are a list, not {type(definitions).__name__}"
        raise SegmentError(msg)
    segments: list[Segment] = []
    for number, definition in enumerate(definitions, 1):
        segment = _segment(number, definition, identify)
        if segment.name in {ALL_USERS, *(s.name for s in segments)}:
            msg = f"segment {number}: there is one named {segment.name!r} already"
            raise SegmentError(msg)
        segments.append(segment)
    return segments


def _segment(number: int, definition: object, identify: Callable[[str], str]) -> Segment:
    where = f"segment {number}"
    known = {"name", "description", "enabled", "filters"}
    given = _mapping(where, definition, known)
    name = given.get("name")
    if not isinstance(name, str) or not name.strip():
        msg = f"{where}: `name` is missing"
        raise SegmentError(msg)
    where = f"segment {name!r}"
    rows = given.get("filters", [])
    if not isinstance(rows, list):
        msg = f"{where}: `filters` is a list of rows, not {rows!r}"
        raise SegmentError(msg)
    enabled = given.get("enabled", True)
    if not isinstance(enabled, bool):
        msg = f"{where}: `enabled` is true or false, not {enabled!r}"
        raise SegmentError(msg)
    filters = tuple(_filter(f"{where}, filter {n}", row) for n, row in enumerate(rows, 1))
    return Segment(name, identify(name), str(given.get("description", "")), filters, enabled, definition=given)


def _mapping(where: str, given: object, known: set[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        msg = f"{where}: not a mapping: {given!r}"
        raise SegmentError(msg)
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        msg = f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        raise SegmentError(msg)
    return cast("dict[str, Any]", given)


_ROW_KEYS: Final = {
    "trait",
    "collection",
    "attribute",
    "match",
    "mode",
    "values",
    "from",
    "to",
    "normalize",
    "date_range",
}


def _filter(where: str, row: object) -> Filter:
    given = _mapping(where, row, _ROW_KEYS)
    subject, collection = _subject(where, given)
    word = "match" if collection else "mode"
    mode = given.get(word, "include")
    if mode not in {"include", "exclude"}:
        msg = f"{where}: `{word}` is include or exclude, not {mode!r}"
        raise SegmentError(msg)
    exclude = mode == "exclude"
    ways: list[str] = [way for way in ("values", "date_range") if way in given]
    if "from" in given or "to" in given:
        ways.append("from/to")
    if len(ways) != 1:
        msg = f"{where}: give one of `values`, `from`/`to`, `date_range`; there is {' and '.join(ways) or 'none'}"
        raise SegmentError(msg)
    if "normalize" in given and (ways != ["from/to"] or collection or not isinstance(given["normalize"], bool)):
        msg = f"{where}: `normalize` is true or false and goes with `from`/`to` of a trait"
        raise SegmentError(msg)
    made = {"values": _values, "from/to": _slider, "date_range": _date_range}[ways[0]](where, given)
    name = subject if collection is None else f"{collection}.{subject}"
    text = f"{name} {'exclude ' if exclude else ''}{made.pop('text')}"
    return Filter(subject, collection, exclude, text=text, **made)


def _subject(where: str, given: dict[str, Any]) -> tuple[str, str | None]:
    """Read what a row is about: a trait, or an attribute of a collection."""
    trait, collection, attribute = (given.get(key) for key in ("trait", "collection", "attribute"))
    if isinstance(trait, str) and trait and collection is None and attribute is None and "match" not in given:
        return trait, None
    if all(isinstance(x, str) and x for x in (collection, attribute)) and trait is None and "mode" not in given:
        return cast("str", attribute), cast("str", collection)
    msg = f"{where}: give `trait` (with `mode`), or `collection` and `attribute` (with `match`)"
    raise SegmentError(msg)


def _values(where: str, given: dict[str, Any]) -> dict[str, Any]:
    values = given["values"]
    if not isinstance(values, list) or not values or not all(isinstance(v, str | int | float | date) for v in values):
        msg = f"{where}: `values` is a list of at least one text, number or boolean, not {values!r}"
        raise SegmentError(msg)
    texts = [v.isoformat() if isinstance(v, date) else text_of(v) for v in values]
    said = ", ".join(texts)
    included = "" if given.get("mode", given.get("match")) == "exclude" else "include "
    return {"display": "multi_select", "values": frozenset(texts), "text": f"{included}{said}"}


def _slider(where: str, given: dict[str, Any]) -> dict[str, Any]:
    low, high = given.get("from"), given.get("to")
    for bound in (low, high):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
            msg = f"{where}: `from` and `to` are numbers, not {bound!r}"
            raise SegmentError(msg)
    _check_order(where, low, high)
    normalize = given.get("normalize", False)
    text = _said(low, high) + (" of 10 (percentile)" if normalize else "")
    return {"display": "slider", "low": low, "high": high, "normalize": normalize, "text": text}


def _date_range(where: str, given: dict[str, Any]) -> dict[str, Any]:
    bounds = _mapping(f"{where}, date_range", given["date_range"], {"from", "to", "days"})
    if "days" in bounds and len(bounds) == 1:
        days = _mapping(f"{where}, days", bounds["days"], {"from", "to"})
        made = _slider(f"{where}, days", days)
        if made["low"] is None and made["high"] is None:
            msg = f"{where}: `days` needs `from` or `to`"
            raise SegmentError(msg)
        return {"display": "date_range", "relative": True, "low": made["low"], "high": made["high"],
                "text": f"{made['text']} days"}  # fmt: skip
    low, high = (_day(where, bounds.get(key)) for key in ("from", "to"))
    if "days" in bounds or (low is None and high is None):
        msg = f"{where}: `date_range` takes `from` and/or `to` as YYYY-MM-DD, or `days` with `from` and/or `to`"
        raise SegmentError(msg)
    _check_order(where, low, high)
    return {"display": "date_range", "low": low, "high": high, "text": _said(low, high)}


def _day(where: str, given: object) -> date | None:
    """Read a bound; YAML has made a date of it already."""
    found = given if isinstance(given, date) else date_of(given) if isinstance(given, str) else None
    if found is None and given is not None:
        msg = f"{where}: not a date, YYYY-MM-DD: {given!r}"
        raise SegmentError(msg)
    return found


def _check_order(where: str, low: Any, high: Any) -> None:  # noqa: ANN401 - numbers or dates
    if low is not None and high is not None and high < low:
        msg = f"{where}: `to` {high} is before `from` {low}"
        raise SegmentError(msg)


def _said(low: object, high: object) -> str:
    return " ".join(f"{word} {bound}" for word, bound in (("from", low), ("to", high)) if bound is not None)
