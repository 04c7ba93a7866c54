"""The filters of segments: what a row asks of a reader, in the words of Engage's own builder, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from target_recurly_engage.problems import suggestion
from target_recurly_engage.traits import Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from target_recurly_engage.problems import Problems

MAX_DAYS: Final = 36500

_NUMBERS: Final = frozenset({Kind.NUMBER, Kind.MONEY})
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


# Reading


def check_members(path: str, given: Mapping[str, Any], known: Sequence[str], problems: Problems) -> None:
    """Find members of a mapping that are not *known*."""
    for member in given:
        if member not in known:
            problems.add(f"{path}.{member}", f"no member here{suggestion(str(member), known)}")


def read_filter(  # noqa: PLR0911 - each way out is one mistake
    path: str,
    given: object,
    traits: Mapping[str, Trait],
    problems: Problems,
) -> Filter | None:
    """Read one row of a segment; None where what is wrong with it leaves nothing to ask.

    Args:
        path: where it stands in the settings.
        given: the row.
        traits: what may be asked of, by the name in the settings.
        problems: takes what is wrong.
    """
    if not isinstance(given, dict):
        problems.add(path, "takes a trait, a segment, a promotion or any_of")
        return None
    check_members(path, given, _FILTER, problems)
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
    read = [read_filter(f"{path}.any_of[{i}]", one, traits, problems) for i, one in enumerate(rows)]
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
        days = number_of(given)
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
    read = [value_of(trait.kind, one) for one in listed]
    if any(one is None for one in read):
        wrong = next(one for one, value in zip(listed, read, strict=True) if value is None)
        problems.add(path, f"{wrong!r} is no {_kind(trait.kind)}, as {trait.key} is")
        return None
    if operator == "between" and read[0] > read[1]:
        problems.add(path, f"nothing lies between {listed[0]} and {listed[1]}; turn them round")
        return None
    return tuple(read)


def number_of(given: object) -> Decimal | None:
    """Read a number; None where it is none."""
    try:
        number = None if isinstance(given, bool) else Decimal(str(given))
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


def value_of(kind: Kind, given: object) -> Any:  # noqa: ANN401 - of the kind
    """Read a value of a trait's type; None where it is none."""
    if kind in _NUMBERS:
        return number_of(given)
    if kind is Kind.BOOLEAN:
        return {"true": True, "false": False}.get(str(given).lower())
    if kind is Kind.DATE:
        try:
            return given if isinstance(given, date) else date.fromisoformat(str(given))
        except ValueError:
            return None
    return None if isinstance(given, dict | list) or given is None else str(given)


def find_contradictions(path: str, filters: Sequence[Filter], problems: Problems) -> None:
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
