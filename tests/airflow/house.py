"""A house with several titles: a Meltano project with applications that inherit, over one sandbox."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from piano_engage_dags.export import exported
from piano_engage_dags.settings import Settings
from piano_engage_dags.steps import Ended, run_step
from piano_engage_sandbox.testing import serving

from tests.e2e.test_days import Pair, steady
from tests.target.conftest import all_held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.service import App

ROOT = Path(__file__).resolve().parents[2]
MELTANO = Path(sys.executable).with_name("meltano")
TARGET = "target-recurly-engage"
PACE = 20
"""Requests a second to Piano, of each application."""


@dataclass
class House:
    """The project.

    Attributes:
        folder: where it is.
        server: the sandbox.
        apps: Piano's applications, by name.
    """

    folder: Path
    server: Server
    apps: dict[str, App]

    def write(self) -> None:
        """Write meltano.yml and a file for each application."""
        content = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
        content |= {"default_environment": "house", "environments": [{"name": "house"}]}
        content |= {"include_paths": ["apps/*.meltano.yml"], "jobs": [], "schedules": []}
        (self.folder / "meltano.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
        (self.folder / "apps").mkdir(exist_ok=True)
        for name in self.apps:
            text = yaml.safe_dump(self.application(name))
            (self.folder / "apps" / f"{name}.meltano.yml").write_text(text, encoding="utf-8")
        system = self.folder / ".meltano"
        system.mkdir(exist_ok=True)
        for kind in ("extractors", "loaders", "utilities"):
            (system / kind).symlink_to(ROOT / ".meltano" / kind)
        exported(self.settings(), self.folder / "schedules.json")  # as Airflow does first; it makes Meltano's database

    def application(self, name: str) -> dict[str, Any]:
        """Give the plugins of one; they inherit those of the project."""
        target = {"name": f"{TARGET}-{name}", "inherit_from": TARGET, "config": self.target(name)}
        tap = {"name": f"tap-piano-{name}", "inherit_from": "tap-piano", "config": self.tap(name)}
        return {"plugins": {"extractors": [tap], "loaders": [target]}}

    def tap(self, name: str) -> dict[str, Any]:
        """Give the settings of an application's tap."""
        lines, app = self.server.environment(), self.server.sandbox.piano[self.apps[name].aid]
        return {
            "aid": app.aid,
            "api_token": app.token,
            "api_url": lines["TAP_PIANO_API_URL"],
            "reports_url": lines["TAP_PIANO_REPORTS_URL"],
            "timezone": app.timezone,
            "requests_per_second": PACE,
            "export_poll": 0.1,
            "rejects_path": str(self.folder / name / "rejects"),
        }

    def target(self, name: str) -> dict[str, Any]:
        """Give the settings of an application's target."""
        lines = self.server.environment()
        keys = ("app_id", "api_key", "api_url", "timezone")
        return {key: lines[f"TARGET_RECURLY_ENGAGE_{key.upper()}"] for key in keys} | {
            "ledger": str(self.folder / name / "ledger.duckdb"),
            "handover_path": str(self.folder / name / "handover"),
            "runs_path": str(self.folder / name / "runs"),
            "delivery": "ingest",
            "as_of": self.pair(name).now.isoformat(),
            "requests_per_second": 0,
            "traits": "all",
        }

    def pair(self, name: str) -> Title:
        """Give an application with its own folder, to compare it."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Title(self.server, folder, app=self.apps[name])

    def differing(self) -> dict[str, list[str]]:
        """Give, for each application, the readers of whom Engage holds something else than it should."""
        held = all_held(self.server)
        return {
            name: [
                user for user, traits in self.pair(name).desired().items() if steady(held.get(user)) != steady(traits)
            ]
            for name in self.apps
        }

    def settings(self) -> Settings:
        """Give what the DAGs' steps need to know."""
        environ = {"MELTANO_PROJECT_ROOT": str(self.folder), "PIANO_ENGAGE_MELTANO": str(MELTANO)}
        return Settings.of(os.environ | environ)

    def run(self, name: str, say: Callable[[str], object], **env: str) -> Ended:
        """Run tap and target of an application, as a task of a DAG does."""
        blocks = [f"tap-piano-{name}", f"{TARGET}-{name}"]
        return run_step(self.settings(), name, blocks, {"XDG_STATE_HOME": str(self.folder / "state")} | env, say)


@dataclass
class Title(Pair):
    """One application of the house, as :mod:`tests.e2e.test_days` compares one."""

    app: App | None = None

    def desired(self) -> dict[str, dict[str, Any]]:
        """What Engage should hold of it."""
        assert self.app
        piano = self.server.sandbox.piano[self.app.aid]
        own = {"TAP_PIANO_AID": piano.aid, "TAP_PIANO_API_TOKEN": piano.token}
        lines = self.server.environment() | own
        return Pair(_Told(self.server, lines), self.folder).desired()  # type: ignore[arg-type]


@dataclass
class _Told:
    """A sandbox that tells of another application."""

    server: Server
    lines: dict[str, str]

    def environment(self) -> dict[str, str]:
        return self.lines

    def control(self, *arguments: Any) -> Any:  # noqa: ANN401 - JSON
        return self.server.control(*arguments)


@contextmanager
def house(folder: Path, apps: dict[str, App]) -> Iterator[House]:
    """Serve a sandbox with these applications, and write the project."""
    with serving(apps=tuple(apps.values())) as server:
        made = House(folder, server, apps)
        made.write()
        yield made
