"""What the tests of the actions share: a desk over a real sandbox, and a look at the sandbox's side of things."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from piano_actions.cli import main
from piano_actions.desk import Desk
from piano_actions.settings import Settings, client_of
from piano_actions.store import Store
from piano_actions.tables import METADATA
from piano_engage_sandbox import actions
from piano_engage_sandbox.testing import serving

from tests.actions import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result
    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World


POSTGRES = os.environ.get("ACTIONS_STORE") == "postgresql"
"""Whether all tests of this folder keep their notes in PostgreSQL; those of the store do so in any case."""
SERVER: list[postgres.Postgres] = []
OPENED: list[Store] = []


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Postgres]:
    """Run PostgreSQL."""
    with postgres.running() as one:
        yield one


@pytest.fixture(scope="session", autouse=True)
def kept_where(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have all tests keep their notes in PostgreSQL, where that is asked for."""
    if POSTGRES:
        SERVER.append(request.getfixturevalue("server"))
    yield
    SERVER.clear()


def store_url(folder: Path) -> str:
    """Where the actions of a test keep their notes."""
    return SERVER[0].database(folder) if SERVER else f"sqlite:///{folder / 'actions.db'}"


@dataclass
class Piano:
    """The sandbox's Piano, looked at from behind."""

    server: Server

    @property
    def app(self) -> Application:
        return next(iter(self.server.sandbox.piano.values()))

    @property
    def world(self) -> World:
        return self.app.world

    def uid(self, entry: Entry) -> str:
        return self.world.person(entry.reader).uid

    def find(self, test: Callable[[Entry], object]) -> Entry:
        return next(entry for entry in self.world.entries.values() if test(entry))

    def of_user(self, entry: Entry) -> list[Entry]:
        return list(self.world.of_user(self.uid(entry)))

    def alone(self, entry: Entry) -> bool:
        return len(self.of_user(entry)) == 1

    def fault(self, path: str, **members: Any) -> None:  # noqa: ANN401 - JSON
        self.server.control("POST", "faults", {"part": "publisher", "path": f"*/{path}", **members})

    def calls(self, path: str) -> int:
        """Count the requests that reached the sandbox at a path."""
        return sum(one["path"].endswith(f"/{path}") for one in self.server.control("GET", "requests"))

    def stopping(self, kind: str, *, alone: bool = True) -> Entry:
        """Give a live subscription of a type of term of which the reader has just put an end to renewal."""
        entry = self.find(
            lambda one: (
                one.state.status == "Active"
                and one.fate.term.type == kind
                and one.state.auto_renew
                and one.state.upgrade_status == "No upgrade"
                and one.state.charge_count > 0
                and (not alone or self.alone(one))
            )
        )
        self.stop(entry)
        return entry

    def stop(self, entry: Entry) -> None:
        if entry.fate.term.type == "Dynamic":
            self.server.call(lambda: actions.cancel_deferred(self.world, entry))
        else:
            self.server.call(lambda: actions.update(self.world, entry, auto_renew=False))


@pytest.fixture
def piano() -> Iterator[Piano]:
    with serving(rows=400) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def reading() -> Iterator[Piano]:
    """One that nobody changes, for refusals."""
    with serving(rows=1500) as server:
        yield Piano(server)


def settings_for(piano: Piano, folder: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "aid": piano.app.aid,
        "api_token": piano.app.token,
        "api_url": f"{piano.server.url}/api/v3",
        "store_url": store_url(folder),
        "requests_per_second": 0,
        "retry_wait": 0,
        "request_timeout": 2,
        **changes,
    }


@pytest.fixture
def settings(piano: Piano, tmp_path: Path) -> dict[str, Any]:
    return settings_for(piano, tmp_path)


def everything(settings: dict[str, Any]) -> str:
    """Give all that the notes hold, as text."""
    store = Store(settings["store_url"])
    try:
        with store.engine.begin() as connection:
            return "\n".join(str(row) for table in METADATA.sorted_tables for row in connection.execute(table.select()))
    finally:
        store.close()


def desk_of(settings: dict[str, Any], **parts: Any) -> Desk:  # noqa: ANN401 - those of the desk
    read = Settings(**settings)
    logger = logging.getLogger("piano-actions")
    OPENED.append(Store(read.store_url))
    return Desk(client_of(read, logger), OPENED[-1], **{"choose": None, "logger": logger, **parts})


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the notes of all desks."""
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture
def desk(settings: dict[str, Any]) -> Iterator[Desk]:
    one = desk_of(settings)
    yield one
    one.store.close()


@pytest.fixture
def ask(settings: dict[str, Any], tmp_path: Path) -> Callable[..., Result]:
    """Run the command, in this process, with the settings in a file."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(path), *arguments])

    return run
