"""Segments as code: audiences in the words of Engage's own builder, made into one SQL predicate each.

A segment is a name and filters that must all hold. It becomes a trait, so Engage has to know only one row: *segment
include true*. There is no public API that makes segments at Engage (its fact sheet, 4.1).

What is absent counts as the value that clears a trait for texts and booleans, as Engage sees it; a number or a date
that is absent is no number and no date, and no comparison with it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.problems import suggestion
from target_recurly_engage.ready import BY_NAME as READY
from target_recurly_engage.traits import Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from target_recurly_engage.problems import Problems

ALL: Final = "all"
NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
MAX_DAYS: Final = 36500

_NUMBERS: Final = frozenset({Kind.NUMBER, Kind.MONEY})
ABOUT_VALUES: Final = frozenset({Kind.STRING})
"""Types of which a value that nobody has is a mistake, as a rule."""
_ORDERED: Final = _NUMBERS | {Kind.DATE}
OPERATORS: Final[Mapping[str, frozenset[Kind]]] = {
    "one_of": frozenset({Kind.STRING, Kind.BOOLEAN, *_NUMBERS}),
    "between": _ORDERED,
    "at_least": _NUMBERS,
    "at_most": _NUMBERS,
    "before": frozenset({Kind.DATE}),
    "after": frozenset({Kind.DATE}),
    "within_next_days": frozenset({Kind.DATE}),
    "within_last_days": frozenset({Kind.DATE}),
    "is_set": frozenset(Kind),
}
"""The operators, and the types of traits that they are for."""

_SEGMENT: Final = ("name", "description", "filters", "priority", "exclusive", "holdback")
_FILTER: Final = ("trait", "segment", "promotion", "any_of", "include", "exclude")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One row of a segment.

    Attributes:
        path: where it stands in the settings.
        trait: what it asks of; None where it asks of another segment or a promotion, or is a choice.
        segment: the other segment.
        promotion: Piano's id of a promotion; it holds for those who may use it.
        any_of: filters of which one must hold.
        exclude: it holds for those whom the operator does not take.
        operator: how it asks.
        values: what it asks for, of the trait's type: Decimal, date, bool or str.
    """

    path: str
    trait: Trait | None = None
    segment: str | None = None
    promotion: str | None = None
    any_of: tuple[Filter, ...] = ()
    exclude: bool = False
    operator: str = ""
    values: tuple[Any, ...] = ()

    def walk(self) -> Iterator[Filter]:
        """Give it and all below it."""
        yield self
        for one in self.any_of:
            yield from one.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An audience.

    Attributes:
        name: its name, of which the trait's is made.
        description: what it is for.
        filters: all must hold.
        priority: in an exclusive set, the smaller number wins.
        exclusive: name of that set: a reader is in one of its segments at most.
        holdback: share, 0 to 1, of its readers who are told that they are not in it, to compare with.
    """

    name: str
    description: str = ""
    filters: tuple[Filter, ...] = ()
    priority: int = 0
    exclusive: str | None = None
    holdback: float = 0.0

    @property
    def traits(self) -> frozenset[Trait]:
        """What its filters ask of."""
        return frozenset(one.trait for row in self.filters for one in row.walk() if one.trait)

    @property
    def promotions(self) -> frozenset[str]:
        """The promotions that its filters ask of."""
        return frozenset(one.promotion for row in self.filters for one in row.walk() if one.promotion)


# Reading


def segments_of(given: Iterable[object], traits: Mapping[str, Trait], problems: Problems) -> tuple[Segment, ...]:
    """Read the setting ``segments``, in an order in which each stands after those that it asks of.

    Args:
        given: a list of names of ready-made segments and of segments.
        traits: what may be asked of, by the name in the settings.
        problems: takes what is wrong.
    """
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for i, one in enumerate(given):
        path = f"segments[{i}]"
        if one == ALL:
            entries += [(f"segments.{name}", ready) for name, ready in READY.items()]
        elif isinstance(one, str):
            if one in READY:
                entries.append((path, READY[one]))
            else:
                problems.add(path, f"{one!r} is no ready-made segment{suggestion(one, READY)}")
        elif isinstance(one, dict):
            ready = READY.get(str(one.get("name")), {}) if "filters" not in one else {}
            entries.append((path, {**ready, **one}))
        else:
            problems.add(path, "takes the name of a ready-made segment, or a segment")
    read = [_segment(path, entry, traits, problems) for path, entry in entries]
    named: dict[str, Segment] = {}
    for segment, (path, _) in zip(read, entries, strict=True):
        if segment.name in named:
            problems.add(f"{path}.name", f"there are two segments {segment.name}; rename one")
        named[segment.name] = segment
    return _in_order(named, problems)


def _in_order(named: Mapping[str, Segment], problems: Problems) -> tuple[Segment, ...]:
    asks: dict[str, set[str]] = {}
    for segment in named.values():
        asks[segment.name] = set()
        for one in (one for row in segment.filters for one in row.walk() if one.segment):
            if one.segment in named:
                asks[segment.name].add(str(one.segment))
            else:
                problems.add(f"{one.path}.segment", f"no segment {one.segment!r}{suggestion(str(one.segment), named)}")
    try:
        return tuple(named[one] for one in TopologicalSorter(asks).static_order())
    except CycleError as e:
        problems.add(f"segments.{e.args[1][0]}", f"asks of itself: {' → '.join(reversed(e.args[1]))}")
        return tuple(named.values())


def _segment(path: str, given: Mapping[str, Any], traits: Mapping[str, Trait], problems: Problems) -> Segment:
    _members(path, given, _SEGMENT, problems)
    called = given.get("name")
    if not isinstance(called, str) or not NAME.fullmatch(called):
        problems.add(f"{path}.name", f"{called!r} is no name: small letters, digits and underscores, please")
    rows = given.get("filters")
    if not isinstance(rows, list) or not rows:
        problems.add(f"{path}.filters", "takes a list of at least one filter")
        rows = []
    priority, holdback = given.get("priority", 0), given.get("holdback", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        problems.add(f"{path}.priority", f"{priority!r} is no whole number")
        priority = 0
    share = _number(holdback)
    if share is None or not 0 <= share < 1:
        problems.add(f"{path}.holdback", f"{holdback!r} is no share: from 0 to below 1, please")
    filters = [_filter(f"{path}.filters[{i}]", one, traits, problems) for i, one in enumerate(rows)]
    read = tuple(one for one in filters if one is not None)
    _contradictions(path, read, problems)
    exclusive = given.get("exclusive")
    return Segment(
        name=str(called), description=str(given.get("description", "")), filters=read, priority=priority,
        exclusive=None if exclusive is None else str(exclusive), holdback=float(share or 0),
    )  # fmt: skip


def _members(path: str, given: Mapping[str, Any], known: Sequence[str], problems: Problems) -> None:
    for member in given:
        if member not in known:
            problems.add(f"{path}.{member}", f"no member here{suggestion(str(member), known)}")


def _filter(  # noqa: PLR0911 - each way out is one mistake
    path: str,
    given: object,
    traits: Mapping[str, Trait],
    problems: Problems,
) -> Filter | None:
    if not isinstance(given, dict):
        problems.add(path, "takes a trait, a segment, a promotion or any_of")
        return None
    _members(path, given, _FILTER, problems)
    of = [one for one in ("trait", "segment", "promotion", "any_of") if one in given]
    if len(of) != 1:
        problems.add(path, "takes one of trait, segment, promotion and any_of")
        return None
    if "any_of" in given:
        return _choice(path, given, traits, problems)
    if of != ["trait"]:
        return _flag(path, of[0], given, problems)
    trait = traits.get(str(given["trait"]))
    if trait is None:
        problems.add(f"{path}.trait", f"no trait {given['trait']!r}{suggestion(str(given['trait']), traits)}")
        return None
    ways = [one for one in ("include", "exclude") if one in given]
    if len(ways) != 1:
        problems.add(path, "takes one of include and exclude, with an operator such as {one_of: [a, b]}")
        return None
    asked = given[ways[0]]
    if not isinstance(asked, dict) or len(asked) != 1:
        problems.add(f"{path}.{ways[0]}", f"takes one operator: {', '.join(OPERATORS)}")
        return None
    ((operator, values),) = asked.items()
    return _question(f"{path}.{ways[0]}.{operator}", trait, (ways[0], operator, values), problems, at=path)


def _flag(path: str, of: str, given: Mapping[str, Any], problems: Problems) -> Filter:
    """Read a filter on a segment or a promotion, of which a reader is or is not."""
    exclude = given.get("exclude", False)
    if not isinstance(exclude, bool) or not isinstance(given.get("include", True), bool):
        problems.add(path, f"a filter on a {of} takes include: true or exclude: true")
    excluded = exclude is True or given.get("include") is False
    if of == "segment":
        return Filter(path=path, segment=str(given[of]), exclude=excluded)
    if not isinstance(given[of], str) or not given[of].strip():
        problems.add(f"{path}.promotion", f"{given[of]!r} is no promotion's id, such as PRSPRING0050")
    return Filter(path=path, promotion=str(given[of]).strip(), exclude=excluded)


def _choice(path: str, given: Mapping[str, Any], traits: Mapping[str, Trait], problems: Problems) -> Filter | None:
    rows = given["any_of"]
    if not isinstance(rows, list) or not rows:
        problems.add(f"{path}.any_of", "takes a list of at least one filter")
        return None
    if "include" in given or "exclude" in given:
        problems.add(path, "any_of takes no include and no exclude; its filters do")
    read = [_filter(f"{path}.any_of[{i}]", one, traits, problems) for i, one in enumerate(rows)]
    return Filter(path=path, any_of=tuple(one for one in read if one is not None))


def _question(path: str, trait: Trait, asked: tuple[str, str, Any], problems: Problems, *, at: str) -> Filter | None:
    way, operator, given = asked
    if operator not in OPERATORS:
        problems.add(path, f"no operator{suggestion(operator, OPERATORS)}")
        return None
    if trait.kind not in OPERATORS[operator]:
        fitting = ", ".join(one for one, kinds in OPERATORS.items() if trait.kind in kinds)
        problems.add(path, f"{trait.key} is a {_kind(trait.kind)}, which takes {fitting}")
        return None
    values = _values(path, trait, operator, given, problems)
    if values is None:
        return None
    return Filter(path=at, trait=trait, exclude=way == "exclude", operator=operator, values=values)


def _kind(kind: Kind) -> str:
    return Kind.NUMBER if kind is Kind.MONEY else kind


def _values(  # noqa: PLR0911 - each way out is one mistake
    path: str,
    trait: Trait,
    operator: str,
    given: object,
    problems: Problems,
) -> tuple[Any, ...] | None:
    if operator == "is_set":
        if given is not True:
            problems.add(path, "takes true; its opposite is exclude: {is_set: true}")
            return None
        return ()
    if operator.endswith("_days"):
        days = _number(given)
        if days is None or days != int(days) or not 0 <= days <= MAX_DAYS:
            problems.add(path, f"{given!r} is no number of days")
            return None
        return (int(days),)
    listed = given if isinstance(given, list) else [given]
    if operator in {"one_of", "between"} and not isinstance(given, list):
        problems.add(path, "takes a list")
        return None
    if not listed or (operator == "between" and len(listed) != 2):  # noqa: PLR2004 - from and to
        problems.add(path, "takes two values, from and to" if operator == "between" else "takes at least one value")
        return None
    read = [_value(trait.kind, one) for one in listed]
    if any(one is None for one in read):
        wrong = next(one for one, value in zip(listed, read, strict=True) if value is None)
        problems.add(path, f"{wrong!r} is no {_kind(trait.kind)}, as {trait.key} is")
        return None
    if operator == "between" and read[0] > read[1]:
        problems.add(path, f"nothing lies between {listed[0]} and {listed[1]}; turn them round")
        return None
    return tuple(read)


def _number(given: object) -> Decimal | None:
    try:
        number = None if isinstance(given, bool) else Decimal(str(given))
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


def _value(kind: Kind, given: object) -> Any:  # noqa: ANN401 - of the kind
    if kind in _NUMBERS:
        return _number(given)
    if kind is Kind.BOOLEAN:
        return {"true": True, "false": False}.get(str(given).lower())
    if kind is Kind.DATE:
        try:
            return given if isinstance(given, date) else date.fromisoformat(str(given))
        except ValueError:
            return None
    return None if isinstance(given, dict | list) or given is None else str(given)


def _contradictions(path: str, filters: Sequence[Filter], problems: Problems) -> None:
    """Find rows that cannot hold together, trait by trait, and promotions both included and excluded."""
    for one in sorted({one.promotion for one in filters if one.promotion and not one.exclude}):
        if any(row.exclude for row in filters if row.promotion == one):
            problems.add(path, f"nobody may use {one} and may not use it; leave one of the two out")
    for trait in sorted({one.trait for one in filters if one.trait}, key=lambda one: one.name):
        rows = [one for one in filters if one.trait == trait]
        included = [set(one.values) for one in rows if one.operator == "one_of" and not one.exclude]
        excluded = {value for one in rows if one.operator == "one_of" and one.exclude for value in one.values}
        both = set.intersection(*included) - excluded if included else None
        low, high = _bounds(rows)
        if both is not None:
            if trait.kind is Kind.BOOLEAN:
                pass
            elif trait.kind in _NUMBERS:
                both = {one for one in both if (low is None or one >= low) and (high is None or one <= high)}
            if not both:
                problems.add(path, f"no reader can have a {trait.key} that all its filters take; see their values")
                continue
        if low is not None and high is not None and low > high:
            problems.add(path, f"{trait.key} cannot be at least {low} and at most {high} at once")
        if {True, False} <= {one.exclude for one in rows if one.operator == "is_set"}:
            problems.add(path, f"{trait.key} cannot be set and not set at once")


def _bounds(rows: Sequence[Filter]) -> tuple[Any, Any]:
    """Give the highest lower and the lowest upper bound that rows set, of numbers and fixed dates."""
    lows = [one.values[0] for one in rows if not one.exclude and one.operator in {"at_least", "after", "between"}]
    highs = [one.values[-1] for one in rows if not one.exclude and one.operator in {"at_most", "before", "between"}]
    return max(lows, default=None), min(highs, default=None)


# SQL


def share(salt: str, user: str = "user_id") -> str:
    """Make the SQL of a number from 0 to below 1 that a reader has for *salt*, everywhere and for ever.

    It is the first 32 bits of SHA-256 over the salt, a colon and the user id in UTF-8, divided by two to the 32nd.
    """
    return f"(('0x' || substr(sha256({text(salt + ':')} || {user}), 1, 8))::UBIGINT / 4294967296)"


def predicate(segment: Segment, *, today: str, clear: Mapping[Kind, str]) -> str:
    """Make the SQL that says whether a reader is in the segment, before priority and hold-back.

    It reads columns named like the traits' keys, of their types, a day for a date; ``in <segment>`` for others; and
    ``may <promotion>``.

    Args:
        segment: the segment.
        today: the day that counts as today, as ISO 8601.
        clear: what stands for a text and a boolean that is absent.
    """
    return " AND ".join(holds(one, today, clear) for one in segment.filters) or "false"


def member(segment: str) -> str:
    """Name, quoted, of the column that says who matches a segment."""
    return name(f"in {segment}")


def may(promotion: str) -> str:
    """Name, quoted, of the column that says who may use a promotion."""
    return name(f"may {promotion}")


def holds(row: Filter, today: str, clear: Mapping[Kind, str]) -> str:
    """Make the SQL that says whether one filter holds; as :func:`predicate`."""
    if row.any_of:
        return f"({' OR '.join(holds(one, today, clear) for one in row.any_of)})"
    if row.promotion:  # NULL where the ledger does not know it, so neither of the two holds
        return f"coalesce({'NOT ' if row.exclude else ''}{may(row.promotion)}, false)"
    if row.segment:
        asked = member(row.segment)
    else:
        assert row.trait  # noqa: S101 - a filter asks of something
        asked = f"coalesce({_asks(row, row.trait, today, clear)}, false)"
    return f"NOT {asked}" if row.exclude else asked


def _asks(row: Filter, trait: Trait, today: str, clear: Mapping[Kind, str]) -> str:
    column, day = name(trait.key), f"DATE {text(today)}"
    written = [_written(value) for value in row.values]
    if row.operator == "one_of":
        if trait.kind in clear:
            column = f"coalesce({column}, {_written(_value(trait.kind, trait.clear or clear[trait.kind]))})"
        return f"{column} IN ({', '.join(written)})"
    if row.operator == "within_next_days":
        return f"{column} BETWEEN {day} AND {day} + {written[0]}"
    if row.operator == "within_last_days":
        return f"{column} BETWEEN {day} - {written[0]} AND {day}"
    if row.operator == "is_set":
        return f"{column} IS NOT NULL"
    if row.operator == "between":
        return f"{column} BETWEEN {written[0]} AND {written[1]}"
    return f"{column} {_COMPARISONS[row.operator]} {written[0]}"


_COMPARISONS: Final = {"at_least": ">=", "at_most": "<=", "before": "<", "after": ">"}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return f"DATE {text(value.isoformat())}"
    return text(value) if isinstance(value, str) else str(value)


def told(segments: Sequence[Segment]) -> dict[str, str]:
    """Make for each segment the SQL that says who is told to be in it, from the columns that say who matches."""
    made = {}
    for segment in segments:
        rivals = [
            one for one in segments
            if segment.exclusive and one.exclusive == segment.exclusive and _place(one) < _place(segment)
        ]  # fmt: skip
        parts = [member(segment.name), *(f"NOT {member(one.name)}" for one in rivals)]
        if segment.holdback:
            parts.append(f"{share(f'holdback:{segment.name}')} >= {segment.holdback!r}")
        made[segment.name] = " AND ".join(parts)
    return made


def _place(segment: Segment) -> tuple[int, str]:
    return segment.priority, segment.name
