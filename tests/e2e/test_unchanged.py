"""An export that did not change, through both: nothing is read, nothing sent, and a ledger that was lost is noticed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests import warm
from tests.e2e.test_samples import DAY_1, DAY_4, NOW, ZONE
from tests.target.conftest import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = 78
OUTAGE = 75

NO_WAY_OUT = """
from piano_engage_common.stops import Outage
from target_recurly_engage.delivery.file import FileDelivery
def deliver(self, *args): raise Outage("the line is dead")
FileDelivery.deliver = deliver
"""


@dataclass
class Nights:
    """A folder with one export whose name never changes, and the pair that runs over it with a state."""

    folder: Path
    traits: str = "all"

    def bring(self, export: Path) -> None:
        """Write the night's export over the last one."""
        shutil.copyfile(export, self.folder / "log.csv")

    def run(self, job: str = "", *, full: bool = False, script: str = "") -> int:
        """Run both as Meltano would; gives the target's exit code, and keeps the state.

        Args:
            job: names whose state it is; that of `snapshot` reads in a way of its own.
            full: without a state.
            script: runs in the target.
        """
        state, folder = self.folder / f"state{job}.json", self.folder
        tap = {"export_path": str(folder / "log.csv"), "rejects_path": str(folder / "rejects")}
        tap |= {"lookback": 7} if job == "snapshot" else {}
        target = {
            "ledger": str(folder / "ledger.duckdb"), "output_path": str(folder / "ingest"),
            "runs_path": str(folder / "runs"), "timezone": ZONE, "as_of": NOW[DAY_4], "traits": self.traits,
        }  # fmt: skip
        (folder / "tap.json").write_text(json.dumps(tap))
        (folder / "target.json").write_text(json.dumps(target))
        options: list[object] = ["--config", folder / "tap.json"]
        options += ["--state", state] if state.exists() and not full else []
        source, drain = os.pipe()
        with (folder / "log").open("ab") as log, (folder / "out").open("w+b") as out:
            both = [warm.start("tap-piano", options, stdout=drain, stderr=log)]
            os.close(drain)
            options = ["--config", folder / "target.json"]
            both += [warm.start("target-recurly-engage", options, script=script, stdin=source, stdout=out, stderr=log)]
            os.close(source)
            codes = [process.wait(PATIENCE) for process in both]
            out.seek(0)
            if states := out.read().splitlines():
                state.write_bytes(states[-1])
        assert codes[0] == 0, (folder / "log").read_text()
        return codes[1]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """What the runs told."""
        paths = sorted((self.folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text()) for path in paths]

    @property
    def files(self) -> int:
        """How many files were sent."""
        return len(list((self.folder / "ingest").glob("*.csv")))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_an_hourly_job_and_a_nightly_one_pass_by_the_same_export_in_turn(nights: Nights) -> None:
    for export, files in ((DAY_1, 1), (DAY_4, 2)):
        nights.bring(export)
        assert [nights.run(job) for job in ("log", "snapshot", "log", "log", "snapshot", "log")] == [0] * 6
        read = [one["rows"]["read"] > 0 for one in nights.summaries[-6:]]
        assert (read, nights.files) == ([True, True, False, False, False, False], files)
    (nights.folder / "ledger.duckdb").unlink()
    assert [nights.run(job) for job in ("log", "snapshot")] == [REFUSED, REFUSED]


def test_nights_of_one_file_whose_name_stays(nights: Nights) -> None:
    nights.bring(DAY_1)
    assert [nights.run(), nights.run()] == [0, 0]
    first, second = nights.summaries
    assert (first["rows"]["read"] > 1000, second["rows"]["read"], nights.files) == (True, 0, 1)
    shutil.copy(nights.folder / "ledger.duckdb", nights.folder / "backup")

    nights.bring(DAY_4)  # the line is dead once the ledger has taken it in; the STATE stays behind
    assert nights.run(script=NO_WAY_OUT) == OUTAGE
    assert (nights.run(), nights.files) == (0, 2)
    assert nights.summaries[-1]["rows"]["read"] > 0
    assert (nights.run(), nights.files, nights.summaries[-1]["rows"]["read"]) == (0, 2, 0)

    shutil.copy(nights.folder / "backup", nights.folder / "ledger.duckdb")
    assert [nights.run(), nights.run(full=True)] == [REFUSED, 0]
    assert (nights.run(), nights.files, nights.summaries[-1]["rows"]["read"]) == (0, 3, 0)

    (nights.folder / "ledger.duckdb").unlink()
    assert nights.run() == REFUSED
    (nights.folder / "state.json").unlink()
    assert (nights.run(), nights.files) == (0, 4)
