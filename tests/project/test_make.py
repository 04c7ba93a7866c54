"""`make run` as a newcomer sees it, and what the README shows of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

pytestmark = pytest.mark.xdist_group("demo")  # one ledger, that of this checkout

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
CHANGES = re.compile(
    r"\d{8}T\d{6}Z-[0-9a-f]+"  # names of files and runs
    r"|took .*"  # seconds and memory
    r"| +(?=what )"  # columns move with the length of names
)


def stable(text: str) -> list[str]:
    """The lines, without what differs from run to run."""
    return [CHANGES.sub("*", line).rstrip() for line in text.strip().splitlines()]


HOUSE = {
    "MELTANO_ENVIRONMENT": "prod", "TAP_PIANO_AID": "ReAlAiD123", "TAP_PIANO_API_TOKEN": "t",
    **{f"TARGET_RECURLY_ENGAGE_{name}": value for name, value in {
        "DELIVERY": "ingest", "APP_ID": "a", "API_KEY": "k", "API_URL": NOWHERE, "LEDGER": "/dev/null/ledger",
        "HANDOVER_PATH": "/dev/null/h", "RUNS_PATH": "/dev/null/r", "OUTPUT_PATH": "/dev/null/o",
        "ALERT_URL": NOWHERE, "METRICS_URL": NOWHERE, "METRICS_PATH": "/dev/null/m",
    }.items()},
}  # fmt: skip
"""The settings of a house: its ledger, its Engage and its monitors."""


def test_make_run_prints_what_the_readme_shows_and_leaves_the_house_in_whose_settings_it_runs_alone() -> None:
    command = [sys.executable, ROOT / "demo" / "run.py"]
    done = subprocess.run(command, env=os.environ | HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- output of make run -->\n```text\n(.*?)```\n<!-- end -->", readme, re.DOTALL)
    assert shown is not None
    assert stable(done.stdout) == stable(shown[1])
    assert done.stderr == ""
    logs = [log.read_text(encoding="utf-8") for log in (ROOT / "output" / "logs").glob("*")]
    assert logs
    assert not any("could not be told" in log for log in logs)
    with duckdb.connect(str(ROOT / ".meltano" / "demo" / "ledger.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT DISTINCT aid FROM subscriptions").fetchall() == [("EXAMPLEAID",)]


def test_pins_are_those_of_the_lock() -> None:
    done = subprocess.run(["make", "check-constraints"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
