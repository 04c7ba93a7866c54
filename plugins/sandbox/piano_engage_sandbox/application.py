"""One application of the publisher: its credentials, its time zone, and its world of readers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Final
from uuid import UUID

from piano_engage_sandbox.actions import ChangeOption, default_options
from piano_engage_sandbox.clock import zone
from piano_engage_sandbox.world import World

if TYPE_CHECKING:
    from piano_engage_sandbox.clock import Zone
    from piano_engage_sandbox.now import Now

DEFAULT_AID: Final = "ExAmPlE4a1"


def invented(kind: str, seed: int, name: str) -> str:
    """Give a secret or id that is the same for the same seed: 32 hexadecimal digits that open nothing anywhere."""
    return hashlib.sha256(f"{kind}/{seed}/{name}".encode()).hexdigest()[:32]


@dataclass(eq=False)
class Application:
    """A Piano application. `rows` is how many subscriptions it has when the sandbox begins."""

    aid: str
    name: str
    now: Now
    seed: int = 1
    rows: int = 2000
    timezone: str = "Europe/Amsterdam"
    token: str = ""
    private_key: str = ""
    begins: int = field(init=False)
    _world: World | None = field(init=False, default=None)
    _making: Lock = field(init=False, default_factory=Lock)

    def __post_init__(self) -> None:
        """Invent the credentials that were not given."""
        self.begins = int(self.now())
        self.token = self.token or f"sandbox-{invented('token', self.seed, self.aid)}"
        self.private_key = self.private_key or invented("private key", self.seed, self.aid)

    @cached_property
    def zone(self) -> Zone:
        """The application's time zone; raises ClockError for an unknown one."""
        return zone(self.timezone)

    @property
    def world(self) -> World:
        """The readers and their subscriptions, caught up with the sandbox's clock; made at first use."""
        world = self.make_world()
        world.catch_up(int(self.now()))
        return world

    def make_world(self) -> World:
        """Make the world unless it is made: seconds for a big one, so callers do it in a thread of its own."""
        with self._making:
            if self._world is None:
                self._world = World(seed=self.seed, aid=self.aid, zone=self.zone, rows=self.rows, begins=self.begins)
            return self._world

    @cached_property
    def change_options(self) -> list[ChangeOption]:
        """The ways from one term to another that are set up; term/change/option/create adds to them."""
        return default_options()

    @property
    def world_is_made(self) -> bool:
        """Whether anybody asked for it yet."""
        return self._world is not None


def engage_ids(seed: int) -> tuple[str, str]:
    """Give the id (a UUID) and the API key of the Engage application."""
    return str(UUID(invented("engage id", seed, ""), version=4)), f"sandbox-{invented('engage key', seed, '')}"
