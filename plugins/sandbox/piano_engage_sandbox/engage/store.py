"""What Engage holds: users with their traits, the traits over all users, segments and files. All in memory.

All counts are kept at each write, so that looking costs nothing however much there is. To be used from the event loop
of the sandbox only, or while nobody writes.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.engage.membership import Membership
from piano_engage_sandbox.engage.traits import Trait
from piano_engage_sandbox.engage.users import WRITES_KEPT, IngestedFile, User, Write
from piano_engage_sandbox.engage.values import CLEAR, Clear, Value, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from piano_engage_sandbox.engage.segments import Segment
    from piano_engage_sandbox.service import Sandbox

LONGEST_INTERNED: Final = 64
"""Longer texts are rarely the same for two users."""


@dataclass(slots=True)
class Changes:
    """What writes did since the start or the last reset."""

    writes: int = 0
    """Writes, one user each."""
    created: int = 0
    """Users created by them."""
    changed: int = 0
    """Values that are now others than before, or new."""
    unchanged: int = 0
    """Values written again as they were."""
    cleared: int = 0
    """Traits taken away from a user."""
    forgotten: int = 0
    """Users dropped by retention."""


class Engage:
    """The Engage application. A part: `sandbox.part(Engage)`."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Begin with nothing."""
        self._sandbox = sandbox
        self._switches = sandbox.switches.engage
        self._users: dict[str, User] = {}
        self._idle: dict[str, None] = {}  # ids by last activity, the longest idle first
        self._columns: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.traits: dict[str, Trait] = {}
        self.files: list[IngestedFile] = []
        self.changes = Changes()
        self._membership = Membership(sandbox, self._users, self.traits)

    def reset(self) -> None:
        """Forget users, traits, files and counters; segments and what was configured by hand stay."""
        by_hand = [(trait.name, trait.by_hand) for trait in self.traits.values() if trait.by_hand is not None]
        for store in (self._users, self._idle, self._columns, self.traits, self.files):
            store.clear()
        self.changes = Changes()
        for name, (type_, display) in by_hand:
            self.configure(name, type_, display)
        self.define_segments([segment.definition for segment in self._membership.segments[1:]])

    # Users -----------------------------------------------------------------------------------------------------------

    @property
    def users(self) -> int:
        """How many users there are."""
        self._forget_idle()
        return len(self._users)

    def user(self, user_id: str) -> User | None:
        """Give a user, or None for one nobody told of, or forgotten."""
        self._forget_idle()
        return self._users.get(user_id)

    def newest(self, limit: int) -> list[User]:
        """List the users that were seen first last."""
        self._forget_idle()
        return list(islice(reversed(self._users.values()), limit))

    def search(self, text: str, *, limit: int = 50, offset: int = 0) -> tuple[list[str], int]:
        """Find ids by a part of them (those that begin with it come first) or by `trait=value`.

        Gives one page of ids and how many there are in all; no text finds everybody, in order of creation.
        """
        self._forget_idle()
        if not text:
            return list(islice(self._users, offset, offset + limit)), len(self._users)
        found = [user_id for user_id in self._users if text in user_id]
        found.sort(key=lambda user_id: not user_id.startswith(text))
        trait, equals, value = text.partition("=")
        if equals and trait in self.traits:
            found += [u.id for u in self._users.values() if trait in u.traits and text_of(u.traits[trait]) == value]
        return found[offset : offset + limit], len(found)

    def write(
        self,
        user_id: str,
        properties: Mapping[str, Value | Clear],
        *,
        source: str,
        anonymous: bool = False,
        anonymous_id: str | None = None,
    ) -> None:
        """Keep a user's properties; CLEAR takes a trait away. A user never seen is created. Visible at once."""
        now = self._sandbox.now()
        self._forget_idle()
        user, created = self._seen(user_id, now)
        if created:
            user.anonymous = anonymous
        user.anonymous_id = anonymous_id or user.anonymous_id
        names = tuple(properties)
        write = Write(now, source, self._columns.setdefault(names, names), tuple(properties.values()))
        user.writes.append(write)
        del user.writes[:-WRITES_KEPT]
        self.changes.writes += 1
        changed = [name for name, value in properties.items() if self._set(user, name, value, write)]
        if self._switches.writes_are_activity:
            self.active(user)
        self._membership.written(user, changed, created=created)

    def _set(self, user: User, name: str, value: Value | Clear, write: Write) -> bool:
        """Set one trait of a user; tells whether that changed it."""
        if value is CLEAR:
            return self._clear(user, name)
        trait = self.traits.get(name)
        if trait is None:
            name = sys.intern(name)
            trait = self.traits[name] = Trait(name, write.at, self._switches)
        trait.last_written = write.at
        user.written[trait.name] = write
        if name in user.traits:
            before = user.traits[name]
            if before == value and type(before) is type(value):
                self.changes.unchanged += 1
                return False
            trait.remove(before)
        if type(value) is str and len(value) <= LONGEST_INTERNED:
            value = sys.intern(value)
        user.traits[trait.name] = value
        trait.add(value)
        self.changes.changed += 1
        return True

    def _clear(self, user: User, name: str) -> bool:
        if name not in user.traits:
            return False
        self.traits[name].remove(user.traits.pop(name))
        user.written.pop(name)
        self.changes.cleared += 1
        return True

    def _seen(self, user_id: str, now: float) -> tuple[User, bool]:
        """Give a user, created if need be."""
        user = self._users.get(user_id)
        if user is not None:
            return user, False
        user = self._users[user_id] = User(user_id, now, now, self._membership.of)
        self._idle[user_id] = None
        self.changes.created += 1
        return user, True

    def active(self, user: User) -> None:
        """Note that a user was active now."""
        user.active = self._sandbox.now()
        del self._idle[user.id]
        self._idle[user.id] = None

    def _forget_idle(self) -> None:
        """Forget users without activity for longer than `engage.retention_days`."""
        oldest = self._sandbox.now() - self._switches.retention_days * DAY
        while self._idle and self._users[first := next(iter(self._idle))].active < oldest:
            del self._idle[first]
            user = self._users.pop(first)
            for name, value in user.traits.items():
                self.traits[name].remove(value)
            self._membership.forgotten(user)
            self.changes.forgotten += 1

    # Traits, segments, collections -----------------------------------------------------------------------------------

    def configure(self, trait: str, type_: str, display: str | None = None, *, description: str = "") -> None:
        """Set type and display of a trait as an administrator does; raises TraitError."""
        found = self.traits.get(trait) or Trait(trait, self._sandbox.now(), self._switches)
        found.configure(type_, display)
        found.description = description or found.description
        self.traits[trait] = found
        self._membership.configured(trait)

    @property
    def segments(self) -> list[Segment]:
        """All segments, All Users first, up to date."""
        self._forget_idle()
        self._membership.catch_up()
        return self._membership.segments

    def segment(self, name: str) -> Segment | None:
        """Give a segment by its name."""
        return next((segment for segment in self.segments if segment.name == name), None)

    def define_segments(self, definitions: Sequence[Mapping[str, Any]]) -> None:
        """Replace all segments but All Users; see `segments` for how they are written. Raises SegmentError."""
        self._forget_idle()
        self._membership.define(definitions)

    def set_collection(self, user_id: str, name: str, records: Sequence[Mapping[str, Value]]) -> None:
        """Replace a user's records of a collection, such as `subscriptions`; a user never seen is created."""
        self._forget_idle()
        user, created = self._seen(user_id, self._sandbox.now())
        user.collections[name] = [dict(record) for record in records]
        self._membership.recorded(user, name, created=created)

    def each_user(self) -> Iterator[User]:
        """Give all users, in order of creation."""
        self._forget_idle()
        return iter(self._users.values())

    def status(self) -> dict[str, Any]:
        """Give the figures, as JSON takes them."""
        return {
            "users": self.users,
            "traits": {
                trait.name: {"users": trait.users, "type": trait.type, "display": trait.display}
                for trait in self.traits.values()
            },
            "segments": self._membership.as_list(),
            "files": [asdict(file) for file in self.files],
            "changes": asdict(self.changes),
        }
