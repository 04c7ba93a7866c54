"""The pair from two folders of two machines: Meltano's state and the ledger lie in a bucket, all else is each one's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.testing import serving

from tests.target.conftest import ROUNDS, places
from tests.target.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

ROOT = Path(__file__).resolve().parents[2]
MELTANO = Path(sys.executable).with_name("meltano")
STATE_ID = "demo:tap-piano-to-target-recurly-engage"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ROUNDS == 1, reason="takes half a minute: make fault-test"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(s3_port=0, rows=5) as one:
        yield one


def linked(folder: Path) -> Path:
    """Make a fresh folder with the project file and the plugins that `make setup` installed, and nothing else."""
    (folder / ".meltano").mkdir(parents=True)
    shutil.copy(ROOT / "meltano.yml", folder)
    for kind in ("extractors", "loaders", "utilities"):
        (folder / ".meltano" / kind).symlink_to(ROOT / ".meltano" / kind)
    return folder


def newest(runs: Path) -> dict[str, Any]:
    """Read the summary of the last run in a folder of summaries."""
    path = max(runs.glob("*.json"))
    return dict(json.loads(path.read_text(encoding="utf-8")))


class Checkout:
    """A fresh folder with the project file, and nothing that a run of another folder left."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = linked(folder), server

    def meltano(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        shelf = Shelf(self.server, "titles/one.duckdb").settings(self.folder / "cache")
        bucket = places(self.server)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MELTANO")} | {
            "AWS_DEFAULT_REGION": "us-west-2",
            "MELTANO_ENVIRONMENT": "demo",
            "MELTANO_STATE_BACKEND_URI": f"s3://{bucket['s3_bucket']}/meltano-state",
            "MELTANO_STATE_BACKEND_S3_ENDPOINT_URL": bucket["s3_endpoint_url"],
            "MELTANO_STATE_BACKEND_S3_AWS_ACCESS_KEY_ID": bucket["aws_access_key_id"],
            "MELTANO_STATE_BACKEND_S3_AWS_SECRET_ACCESS_KEY": bucket["aws_secret_access_key"],
            "NO_COLOR": "1",
            "TAP_PIANO_REJECTS_PATH": str(self.folder / "rejects"),
            "TARGET_RECURLY_ENGAGE_OUTPUT_PATH": str(self.folder / "ingest"),
            "TARGET_RECURLY_ENGAGE_RUNS_PATH": str(self.folder / "runs"),
            **{f"TARGET_RECURLY_ENGAGE_{name.upper()}": str(value) for name, value in shelf.items()},
            **settings,
        }
        return subprocess.run(
            [str(MELTANO), *command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def run(self, export: Path) -> dict[str, Any]:
        done = self.meltano(
            "run", "--no-install", "tap-piano", "target-recurly-engage", TAP_PIANO_EXPORT_PATH=str(export)
        )
        assert done.returncode == 0, done.stderr
        return newest(self.folder / "runs")


def export(path: Path, changed: int) -> Path:
    """Write a log of 30 readers that tells when a subscription changed; so many of them have on the second day."""
    lines = [
        f"RC{number},u{number},{'Weekly' if number < changed else 'Daily'},"
        f"2026-03-{20 if number < changed else 1 + number // 2:02}T04:00:00+00:00"
        for number in range(30)
    ]
    path.write_text("\n".join(["Subscription ID,User ID (UID),Term name,Modify time", *lines, ""]), encoding="utf-8")
    return path


def test_state_and_ledger_of_one_folder_are_those_of_the_other(server: Server, tmp_path: Path) -> None:
    first, second = (Checkout(tmp_path / name, server) for name in ("first", "second"))
    days = [export(tmp_path / f"log-{changed}.csv", changed) for changed in (0, 2)]
    shelf = Shelf(server, "meltano-state")
    day_1 = first.run(days[0])
    assert (day_1["rows"]["read"], day_1["users"]["new"]) == (30, 30)
    state = json.loads(shelf.content(f"{STATE_ID}/state.json"))["completed"]["singer_state"]
    day_2 = second.run(days[1])  # a folder that knows nothing
    assert day_2["rows"]["read"] == 2 + 2  # by the bookmark of the first: what changed, and the last two before
    assert (day_2["users"]["new"], day_2["users"]["changed"], day_2["users"]["cleared"]) == (0, 2, 0)
    assert json.loads(shelf.content(f"{STATE_ID}/state.json"))["completed"]["singer_state"] != state
    back = first.run(days[1])
    assert (back["users"]["new"], back["users"]["changed"], back["files"]) == (0, 0, [])
    assert shelf.keys() == [f"{STATE_ID}/state.json"]  # and no lock
    shown = second.meltano("invoke", "recurly-engage:ledger-show")
    assert shown.returncode == 0, shown.stderr
    assert "version 000003" in shown.stdout
