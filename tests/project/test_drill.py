"""The commands of docs/production.md for backup, drill and restore, as they stand there: Engage ends with the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.testing import serving

from tests.project.test_two_folders import ROOT, linked, newest
from tests.target.conftest import ROUNDS, all_held, places
from tests.target.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from piano_engage_sandbox.server import Server

PAGE = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
BACKUP, DRILL, RESTORE = re.findall(
    r"```sh\n(.*?)```", PAGE.split("\n## Backup and restore")[1].split("\n## ")[0], re.DOTALL
)
SNAPSHOT = "meltano --environment=prod run --no-install tap-piano-snapshot target-recurly-engage"
LOG = SNAPSHOT.replace("snapshot", "log")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(ROUNDS == 1, reason="takes minutes: make fault-test"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(s3_port=0, rows=5) as one:
        yield one


@dataclass
class House:
    """A checkout in production, with a shell in it.

    Attributes:
        folder: where it is.
        server: the sandbox, whose Ingest API is Engage.
        ledger: where the ledger lives; nothing is where the environment `prod` has it.
    """

    folder: Path
    server: Server
    ledger: Mapping[str, Any]

    def sh(self, commands: str, log: Path) -> str:
        """Have a shell do what stands on the page, and give what was said."""
        found = places(self.server)
        ours = {
            "delivery": "ingest", "requests_per_second": "0",
            **{name: found[name] for name in ("app_id", "api_key", "api_url")}, **self.ledger,
        }  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MELTANO")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "TAP_PIANO_EXPORT_PATH": str(log),
            **{f"TARGET_RECURLY_ENGAGE_{name.upper()}": str(value) for name, value in ours.items()},
        }
        text = f"set -eu\n{commands}".replace("/backup/", f"{self.folder}/backup/")
        done = subprocess.run(
            ["sh", "-c", text], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sent(self) -> int:
        """How many requests Engage had."""
        answers = self.server.control("GET", "counters")["answers"]
        return sum(one["count"] for one in answers if one["part"] == "engage")

    def held(self) -> dict[str, str]:
        """What Engage holds of each reader's term."""
        return {user: str(traits["term_name"]) for user, traits in all_held(self.server).items()}


def export(path: Path, name: str, terms: Mapping[int, str]) -> Path:
    """Write a log of readers with their terms."""
    file = path / f"{name}.csv"
    rows = [f"RC{n},{path.name}-{n},{term},2026-03-{10 + n}T04:00:00+00:00" for n, term in terms.items()]
    file.write_text("\n".join(["Subscription ID,User ID (UID),Term name,Modify time", *rows, ""]), encoding="utf-8")
    return file


@pytest.fixture
def house(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> House:
    """Give one with a local ledger, or where the test has `shared` as a parameter with one on S3."""
    shared = getattr(request, "param", "local") == "shared"
    ledger = Shelf.of(server, request).settings(tmp_path / "cache") if shared else {}
    return House(linked(tmp_path / "checkout"), server, ledger)


def lose(house: House) -> None:
    """Remove the ledger, and all copies that a machine may have of it."""
    shelf = Shelf(house.server, str(house.ledger.get("ledger", "")).split("/", 3)[-1])
    for key in shelf.keys() if house.ledger else []:
        shelf.remove(key)
    left = [path for path in house.folder.parent.rglob("*.duckdb") if path.parent.name != "backup"]
    assert left, "it was somewhere"
    for path in left:
        path.unlink()


@pytest.mark.parametrize("house", ["local", "shared"], indirect=True)
def test_backup_drill_and_restore_as_the_page_has_them(house: House, tmp_path: Path) -> None:
    """A reader changes after the backup and back: only who is told in full gets the right value again."""
    terms = dict.fromkeys(range(12), "Daily")
    days = [export(tmp_path, "1", terms), export(tmp_path, "2", terms | {3: "Weekly"}), export(tmp_path, "3", terms)]
    readers = {f"{tmp_path.name}-{n}" for n in terms}
    before = house.sent()

    house.sh(f"{SNAPSHOT}\n{LOG}\n{BACKUP}", days[0])
    assert house.sent() - before == 12
    house.sh(SNAPSHOT, days[1])
    assert (house.sent() - before, house.held()[f"{tmp_path.name}-3"]) == (13, "Weekly")

    backup = BACKUP.splitlines()[0] + "\n"
    house.sh(backup + DRILL, days[1])
    drill = newest(house.folder / "runs" / "prod")
    assert (drill["status"], drill["users"]["new"], drill["users"]["changed"]) == ("dry run", 0, 1)
    assert house.sent() - before == 13, "a drill sends nothing"

    lose(house)
    assert "the next run tells all of them in full" in house.sh(backup + RESTORE, days[2])
    assert house.sent() - before == 13 + 12, "everybody once, for nobody can prove what Engage holds"
    assert {user: term for user, term in house.held().items() if user in readers} == dict.fromkeys(readers, "Daily")

    house.sh(f"{LOG}\n{SNAPSHOT}", days[2])  # the schedules are on again
    assert newest(house.folder / "runs" / "prod")["users"]["total"] == 12
    assert house.sent() - before == 13 + 12


def test_a_restore_of_a_backup_after_which_nobody_was_told_tells_nobody(house: House, tmp_path: Path) -> None:
    log = export(tmp_path, "1", dict.fromkeys(range(5), "Daily"))
    house.sh(f"{SNAPSHOT}\n{BACKUP}", log)
    before = house.sent()
    house.sh(f"{BACKUP.splitlines()[0]}\n{RESTORE}\n{LOG}", log)
    assert house.sent() == before
