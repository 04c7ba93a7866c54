"""Segments as code: audiences in the words of Engage's own builder, made into one SQL predicate each.

A segment is a name and filters that must all hold. It becomes a trait, so Engage has to know only one row: *segment
include true*. There is no public API that makes segments at Engage (its fact sheet, 4.1).

`filters.py` reads the rows, `predicates.py` makes the SQL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Final

from target_recurly_engage.filters import check_members, find_contradictions, number_of, read_filter
from target_recurly_engage.problems import suggestion
from target_recurly_engage.ready import BY_NAME as READY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from target_recurly_engage.filters import Filter
    from target_recurly_engage.problems import Problems
    from target_recurly_engage.traits import Trait

ALL: Final = "all"
NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_SEGMENT: Final = ("name", "description", "filters", "priority", "exclusive", "holdback")


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
    check_members(path, given, _SEGMENT, problems)
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
    share = number_of(holdback)
    if share is None or not 0 <= share < 1:
        problems.add(f"{path}.holdback", f"{holdback!r} is no share: from 0 to below 1, please")
    filters = [read_filter(f"{path}.filters[{i}]", one, traits, problems) for i, one in enumerate(rows)]
    read = tuple(one for one in filters if one is not None)
    find_contradictions(path, read, problems)
    exclusive = given.get("exclusive")
    return Segment(
        name=str(called), description=str(given.get("description", "")), filters=read, priority=priority,
        exclusive=None if exclusive is None else str(exclusive), holdback=float(share or 0),
    )  # fmt: skip
