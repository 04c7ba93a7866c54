"""Who is in which segment, kept up to date at each write instead of looking at everybody."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from piano_engage_sandbox.application import invented
from piano_engage_sandbox.engage.segments import ALL_USERS, Context, Segment, parse
from piano_engage_sandbox.engage.values import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from piano_engage_sandbox.engage.traits import Trait
    from piano_engage_sandbox.engage.users import User
    from piano_engage_sandbox.service import Sandbox


class Membership:
    """The segments and their members.

    Days are those of the first application's time zone (Engage names none). A write is judged at once and shows after
    `engage.segment_delay`. Segments that go by percentile depend on everybody's values; they are judged anew when
    somebody looks at them.
    """

    def __init__(self, sandbox: Sandbox, users: dict[str, User], traits: dict[str, Trait]) -> None:
        """Begin with All Users only."""
        self._sandbox = sandbox
        self._users = users
        self._traits = traits
        self._zone = next(iter(sandbox.piano.values())).zone
        self._ranks: dict[str, list[float]] = {}
        self._context = self._look()
        self._setting = sandbox.switches.engage.configured
        self.define([])

    def define(self, definitions: object) -> None:
        """Replace all segments but All Users; raises SegmentError and changes nothing then."""
        everybody = Segment(ALL_USERS, self._id(ALL_USERS), "Everybody Engage knows")
        self.segments = [everybody, *parse(definitions, self._id)]
        self._by_trait: dict[str, list[Segment]] = {}
        self._by_collection: dict[str, list[Segment]] = {}
        for segment in self.segments:
            for name in dict.fromkeys(row.trait for row in segment.filters if row.collection is None):
                self._by_trait.setdefault(name, []).append(segment)
            for name in dict.fromkeys(row.collection for row in segment.filters if row.collection is not None):
                self._by_collection.setdefault(name, []).append(segment)
        self._normalized = set[str]().union(*(segment.normalized for segment in self.segments))
        self._stale: set[Segment] = set()
        self._due: deque[tuple[float, Segment, str, bool]] = deque()
        self._judge_all(self.segments)

    def of(self, user_id: str) -> list[str]:
        """Name the segments a user is in."""
        self.catch_up()
        return [segment.name for segment in self.segments if user_id in segment.members]

    def written(self, user: User, names: Iterable[str], *, created: bool = False) -> None:
        """Judge a user whose traits changed."""
        self._judge_together(user, names, self._by_trait, created=created)
        if self._normalized:
            for name in self._normalized.intersection(names):
                self._stale.update(segment for segment in self._by_trait[name] if name in segment.normalized)

    def recorded(self, user: User, collection: str, *, created: bool = False) -> None:
        """Judge a user whose records changed."""
        self._judge_together(user, (collection,), self._by_collection, created=created)

    def configured(self, trait: str) -> None:
        """Judge everybody after a trait's type or display was set."""
        self._judge_all(self._by_trait.get(trait, []))

    def forgotten(self, user: User) -> None:
        """Take a user out of everything at once."""
        for segment in self.segments:
            segment.judged.discard(user.id)
            segment.members.discard(user.id)
        self._stale.update(segment for name in user.traits for segment in self._by_trait.get(name, ())
                           if segment.normalized)  # fmt: skip
        if self._due:
            self._due = deque(entry for entry in self._due if entry[2] != user.id)

    def catch_up(self) -> None:
        """Do what the clock, the switches and percentiles ask for."""
        before, self._context = self._context, self._look()
        if self._setting != self._sandbox.switches.engage.configured:
            self._setting = self._sandbox.switches.engage.configured
            self._judge_all(self.segments)
        elif (before.today, before.sense) != (self._context.today, self._context.sense):
            self._judge_all(segment for segment in self.segments if segment.ages)
        if self._stale:
            self._judge_all(list(self._stale))
        self._show()

    def _id(self, name: str) -> str:
        return invented("segment", self._sandbox.options.seed, name)[:12]

    def _today(self) -> date:
        return datetime.fromtimestamp(self._zone.wall(int(self._sandbox.now())), UTC).date()

    def _look(self) -> Context:
        sense = self._sandbox.switches.engage.date_range_sense
        return Context(self._traits, self._today(), sense, self._ranks)

    def _judge_together(
        self, user: User, names: Iterable[str], concerned: dict[str, list[Segment]], *, created: bool
    ) -> None:
        if created:
            touched: Iterable[Segment] = self.segments
        elif concerned:
            touched = dict.fromkeys(segment for name in names for segment in concerned.get(name, ()))
        else:
            return
        for segment in touched:
            self._judge(segment, user)

    def _judge_all(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            for name in segment.normalized:
                values = (number_of(user.traits.get(name)) for user in self._users.values())
                self._ranks[name] = sorted(value for value in values if value is not None)
            self._stale.discard(segment)
            for user in self._users.values():
                self._judge(segment, user)

    def _judge(self, segment: Segment, user: User) -> None:
        passes = segment.matches(user.traits, user.collections, self._context)
        if passes == (user.id in segment.judged):
            return
        (segment.judged.add if passes else segment.judged.discard)(user.id)
        delay = self._sandbox.switches.engage.segment_delay
        if delay <= 0 and not self._due:
            (segment.members.add if passes else segment.members.discard)(user.id)
        else:
            self._due.append((self._sandbox.now() + delay, segment, user.id, passes))

    def _show(self) -> None:
        now, delay = self._sandbox.now(), self._sandbox.switches.engage.segment_delay
        while self._due and (delay <= 0 or self._due[0][0] <= now):
            _, segment, user_id, passes = self._due.popleft()
            (segment.members.add if passes else segment.members.discard)(user_id)

    def as_list(self) -> list[dict[str, Any]]:
        """Give the segments with their sizes, as JSON takes them."""
        self.catch_up()
        return [
            {"id": s.id, "name": s.name, "enabled": s.enabled, "size": s.size, "rules": s.rules} for s in self.segments
        ]
