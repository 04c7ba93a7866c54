"""Twelve applications at once over four workers, against one sandbox; the steps are those of the DAGs.

Part of `make airflow-test`, though Airflow itself is not needed: it takes minutes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest
from piano_engage_sandbox.service import App

from tests.airflow.house import MELTANO, PACE, ROOT, TARGET, House, house

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKERS = 4
NAMES = tuple(f"title{number}" for number in range(1, int(os.environ.get("AIRFLOW_TITLES") or 12) + 1))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("AIRFLOW_PROGRAM") is None, reason="takes minutes: make airflow-test"),
    pytest.mark.timeout(1800),
]


@pytest.fixture
def titles(tmp_path: Path) -> Iterator[House]:
    apps = {name: App(aid=f"{name.upper()}AID", name=name, rows=60 + 5 * n) for n, name in enumerate(NAMES)}
    with house(tmp_path, apps) as made:
        yield made


def test_applications_at_once_share_neither_ledger_state_nor_pace(titles: House) -> None:
    """Each is run twice; the second run reads on where its own state says, and has nothing to tell."""
    watch = [
        {"part": "reports", "at_once": 1, "per": "aid", "only_count": True},
        {"part": "publisher", "rate": PACE * 1.5, "per": "aid", "only_count": True},
    ]
    for limit in watch:
        titles.server.control("POST", "limits", limit)
    lines: dict[str, list[str]] = {name: [] for name in NAMES}
    with ThreadPoolExecutor(WORKERS) as workers:
        ended = list(workers.map(lambda name: titles.run(name, lines[name].append), NAMES))
    assert [one.codes for one in ended] == [[0]] * len(NAMES), [lines[name][-5:] for name in NAMES]
    assert titles.differing() == {name: [] for name in NAMES}
    readers = [titles.pair(name).desired().keys() for name in NAMES]
    assert len(set().union(*readers)) == sum(map(len, readers)), "no reader is of two applications"
    with ThreadPoolExecutor(WORKERS) as workers:
        ended = list(workers.map(lambda name: titles.run(name, lines[name].append), NAMES))
    assert [one.codes for one in ended] == [[0]] * len(NAMES), [lines[name][-5:] for name in NAMES]
    for name, rows in zip(NAMES, (app.rows for app in titles.apps.values()), strict=True):
        first, second = summaries(titles, name)
        assert first["rows"]["read"] >= rows
        assert second["users"]["new"] == second["users"]["changed"] == second["users"]["cleared"] == 0
        assert second["users"]["total"] == first["users"]["total"]
    counted = titles.server.control("GET", "counters")
    assert counted["violations"] == 0, titles.server.control("GET", "limits")
    assert titles.differing() == {name: [] for name in NAMES}


def summaries(titles: House, name: str) -> list[dict[str, dict[str, int]]]:
    paths = sorted((titles.folder / name / "runs").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_one_plugin_name_for_two_applications_mixes_up_their_state(titles: House) -> None:
    """The naive set-up: tap-piano for all, settings by the environment. The second reads on from the first's place."""
    lacking = {}
    for name in NAMES[:2]:
        tap, target = titles.tap(name), titles.target(name)
        own = {f"TAP_PIANO_{key.upper()}": str(value) for key, value in tap.items()}
        own |= {f"TARGET_RECURLY_ENGAGE_{key.upper()}": str(value) for key, value in target.items()}
        environment = os.environ | own | {"XDG_STATE_HOME": str(titles.folder / "state")}
        command = [str(MELTANO), "run", "--no-install", "tap-piano", TARGET]
        done = subprocess.run(
            command, cwd=titles.folder, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        lacking[name] = titles.differing()[name] if done.returncode == 0 else ["refused"]
    first, second = NAMES[:2]
    assert lacking[first] == []
    assert lacking[second] != [], "its readers before the bookmark of the other are not told, or the run is refused"
    assert titles.run(second, print).codes == [0]
    assert titles.differing()[second] == [], "with a plugin of its own all is well"


WORKER = """
import os
from piano_engage_dags.settings import Settings
from piano_engage_dags.steps import run_step
name = os.environ["TITLE"]
run_step(Settings.of(os.environ), name, [f"tap-piano-{name}", f"target-recurly-engage-{name}"], {}, print)
"""


def test_the_application_of_a_killed_worker_runs_again_in_its_next_slot(titles: House) -> None:
    """Meltano still believes in the run that is gone: without `--force` it refuses another for five minutes."""
    name = NAMES[0]
    titles.server.control("POST", "faults", {"part": "engage", "hang": True})
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "plugins" / "airflow" / "dags"),
        "MELTANO_PROJECT_ROOT": str(titles.folder),
        "PIANO_ENGAGE_MELTANO": str(MELTANO),
        "XDG_STATE_HOME": str(titles.folder / "state"),
        "TITLE": name,
    }
    worker = psutil.Popen([sys.executable, "-c", WORKER], env=environment, stdout=subprocess.DEVNULL)
    whole = [worker]
    try:
        deadline = time.monotonic() + 120
        while not any(titles.server.control("GET", "counters")["faults"].values()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        whole += worker.children(recursive=True)
        for process in whole:
            process.kill()
        psutil.wait_procs(whole, 30)
    assert running(titles) == 1, "Meltano's own note of the run is left"
    titles.server.control("DELETE", "faults")
    blocks = [f"tap-piano-{name}", f"{TARGET}-{name}"]
    refused = subprocess.run(
        [MELTANO, "run", "--no-install", *blocks],
        cwd=titles.folder,
        env=environment | {"MELTANO_DATABASE_URI": f"sqlite:///{titles.folder}/.meltano/meltano.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "already" in refused.stdout + refused.stderr
    lines: list[str] = []
    assert titles.run(name, lines.append).codes == [0], lines[-10:]
    assert titles.differing()[name] == []


def running(titles: House) -> int:
    """Count the runs that Meltano believes to be under way."""
    path = titles.folder / ".meltano" / "meltano.db"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as base:
        try:
            return int(base.execute("SELECT count(*) FROM runs WHERE state = 'RUNNING'").fetchone()[0])
        except sqlite3.OperationalError:  # the table is not there yet
            return 0
