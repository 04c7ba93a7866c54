"""The sandbox as a whole: both vendors, their clock, switches and faults, behind one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiohttp import web

from piano_engage_sandbox.application import DEFAULT_AID, Application, engage_ids
from piano_engage_sandbox.clock import zone
from piano_engage_sandbox.now import Now
from piano_engage_sandbox.switches import Switches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """What can be said of an application when the sandbox starts."""

    aid: str = DEFAULT_AID
    name: str = "Example Daily"
    timezone: str = "Europe/Amsterdam"
    rows: int = 2000
    token: str = ""
    private_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the sandbox starts. Port 0 takes a free one. `begins` is a local date-time, or None for the machine's now."""

    host: str = "127.0.0.1"
    port: int = 0
    s3_port: int | None = None
    """Port of the S3 server; 0 takes a free one, None starts none."""
    seed: int = 1
    apps: Sequence[App] = (App(),)
    begins: str | datetime | None = None
    running: bool = True
    """Whether the clock runs."""
    switches: Mapping[str, Any] = field(default_factory=dict)


P = TypeVar("P")


class Sandbox:
    """Everything the doors serve: the applications of Piano by aid, the clock, the switches, and the parts."""

    def __init__(self, options: Options) -> None:
        """Make both vendors; raises ClockError and SwitchError for options that make no sense."""
        self.options = options
        self.switches = Switches()
        for name, value in options.switches.items():
            self.switches.set(name, value)
        begins = options.begins
        civil = zone(options.apps[0].timezone)
        at = None if begins is None else civil.parse(begins) if isinstance(begins, str) else civil.of(begins)
        self.now = Now(at, running=options.running)
        self.piano = {
            app.aid: Application(
                aid=app.aid, name=app.name, now=self.now, seed=options.seed, rows=app.rows, timezone=app.timezone,
                token=app.token, private_key=app.private_key,
            )
            for app in options.apps
        }  # fmt: skip
        self.app_id, self.api_key = engage_ids(options.seed)
        self.url = ""
        self._parts: dict[type[object], object] = {}

    def part(self, kind: type[P]) -> P:
        """Give the one object of a part, such as `Engage` or `Webhooks`; it is made at first use, from the sandbox."""
        if kind not in self._parts:
            self._parts[kind] = cast("Any", kind)(self)
        return cast("P", self._parts[kind])


SANDBOX: web.AppKey[Sandbox] = web.AppKey("sandbox", Sandbox)
"""Where handlers find it: `request.app[SANDBOX]`."""
