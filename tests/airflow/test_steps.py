"""Running a step: alone, in a folder of its own, stopped in time; and asking Meltano for its schedules once."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from piano_engage_dags.export import exported
from piano_engage_dags.settings import Settings
from piano_engage_dags.steps import Busy, result_of, run_step

if TYPE_CHECKING:
    from collections.abc import Callable

DAGS = Path(__file__).resolve().parents[2] / "plugins" / "airflow" / "dags"
MELTANO = Path(sys.executable).with_name("meltano")
WORKS = """#!/bin/sh
echo "$@" >> "$LOG"
echo "began $MELTANO_SYS_DIR_ROOT" >> "$LOG"
sleep "${TAKES:-0}"
echo ended >> "$LOG"
exit "${CODE:-0}"
"""
"""Stands for Meltano where only what happens around it is of interest; the real one is below and in test_airflow.py."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / ".meltano" / "extractors").mkdir(parents=True)
    program = tmp_path / "works"
    program.write_text(WORKS)
    program.chmod(0o755)
    environ = {"MELTANO_PROJECT_ROOT": str(tmp_path), "PIANO_ENGAGE_MELTANO": str(program), "PIANO_ENGAGE_GRACE": "5"}
    return Settings.of(environ)


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Callable[..., int]:
    def start(application: str, *, within: float = 60, **env: str) -> int:
        own = {"LOG": str(tmp_path / "log"), **env}
        return run_step(replace(settings, timeout=within), application, ["tap", "a b;c"], own, lambda _line: None).code

    return start


def lines(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_a_step_has_its_own_system_folder_with_the_projects_plugins(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("north") == 0
    system = tmp_path / ".meltano" / "airflow" / "applications" / "north"
    assert lines(tmp_path) == ["--log-format json run --no-install --force tap a b;c", f"began {system}", "ended"]
    assert (system / "extractors").resolve() == tmp_path / ".meltano" / "extractors"
    assert run("north", CODE="75") == 75


def test_plugins_that_are_installed_after_a_first_step_are_found_by_the_next(
    run: Callable[..., int], tmp_path: Path
) -> None:
    """Meltano makes the folders that it misses, which would stand in the way of the project's for good."""
    (tmp_path / ".meltano" / "extractors").rmdir()
    makes = "#!/bin/sh\nmkdir -p $MELTANO_SYS_DIR_ROOT/extractors/tap $MELTANO_SYS_DIR_ROOT/utilities/asked\n"
    (tmp_path / "works").write_text(makes)
    assert run("north") == 0
    for kind in ("extractors", "loaders", "utilities"):
        program = tmp_path / ".meltano" / kind / "plugin" / "venv" / "bin" / "plugin"
        program.parent.mkdir(parents=True)
        program.touch()
    assert run("north") == 0
    system = tmp_path / ".meltano" / "airflow" / "applications" / "north"
    assert len(list(system.glob("*/plugin/venv/bin/plugin"))) == 3


def test_one_application_never_runs_twice_at_once_and_others_beside_it(run: Callable[..., int], tmp_path: Path) -> None:
    threads = [threading.Thread(target=run, args=("north",), kwargs={"TAKES": "0.4"}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = [line.split()[0] for line in lines(tmp_path) if not line.startswith("--")]
    assert words == ["began", "ended"] * 3
    (tmp_path / "log").unlink()
    threads = [threading.Thread(target=run, args=(name,), kwargs={"TAKES": "1"}) for name in ("north", "south")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = [line.split()[0] for line in lines(tmp_path) if not line.startswith("--")]
    assert words == ["began", "began", "ended", "ended"]


def test_a_step_that_takes_too_long_is_asked_to_end(run: Callable[..., int], tmp_path: Path) -> None:
    began = time.monotonic()
    assert run("north", within=0.5, TAKES="60") == -15
    assert time.monotonic() - began < 30
    assert lines(tmp_path)[-1].startswith("began"), "it did not end by itself"
    assert run("north") == 0, "the lock is free again"


WORKER = """
import os, sys
from piano_engage_dags.settings import Settings
from piano_engage_dags.steps import run_step
run_step(Settings.of(os.environ), "north", ["tap"], {"TAKES": "600"}, print)
"""


def test_the_run_of_a_killed_worker_keeps_others_out_as_long_as_it_lives(
    run: Callable[..., int], settings: Settings, tmp_path: Path
) -> None:
    environ = os.environ | {
        "PYTHONPATH": str(DAGS), "MELTANO_PROJECT_ROOT": str(tmp_path), "PIANO_ENGAGE_MELTANO": settings.meltano,
        "LOG": str(tmp_path / "log"),
    }  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", WORKER], env=environ, stdout=subprocess.DEVNULL) as worker:
        wait_until(lambda: (tmp_path / "log").exists() and len(lines(tmp_path)) == 2)
        (orphan,) = psutil.Process(worker.pid).children()
        left = [orphan, *orphan.children(recursive=True)]
        worker.kill()
    with pytest.raises(Busy, match="another step of north is under way"):
        run_step(settings, "north", ["tap"], {}, lambda _line: None, wait=False)
    next_one = threading.Thread(target=run, args=("north",))
    next_one.start()
    next_one.join(0.5)
    assert next_one.is_alive(), "it waits"
    assert len(lines(tmp_path)) == 2
    for process in left:
        process.kill()
    next_one.join(30)
    assert lines(tmp_path)[-1] == "ended"


def wait_until(fulfilled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_summary_is_told_without_a_reader(tmp_path: Path, settings: Settings) -> None:
    summary = tmp_path / "runs" / "1.json"
    summary.parent.mkdir()
    whole = {
        "run_id": "1",
        "status": "stopped",
        "message": "the brake",
        "seconds": 1.0,
        "rows": {"read": 4},
        "users": {},
    }
    summary.write_text(json.dumps(whole | {"secret": "reader"}))
    entry = {"event": f"run 1 stopped: 4 rows; {summary}", "exit_codes": {"loaders": 80}}
    Path(settings.meltano).write_text(f"#!/bin/sh\necho '{json.dumps(entry)}'\nexit 1\n")
    ended = run_step(settings, "north", ["x"], {}, lambda _line: None)
    found = result_of(ended)
    assert (ended.codes, found["report"]) == ([80], str(summary.with_suffix(".html")))
    assert found["run"] == whole


PROJECT = """
requires_meltano: ">=4.4"
project_id: x
default_environment: prod
send_anonymous_usage_stats: false
cli: {disable_version_check: true}
environments: [{name: prod}]
plugins:
  utilities: [{name: recurly-engage, namespace: r, executable: recurly-engage, commands: {offers: offers}}]
jobs: [{name: log, tasks: ["recurly-engage:offers"]}]
schedules: [{name: log, interval: "@hourly", job: log, env: {A: "1"}}]
"""


def test_meltano_is_asked_once_until_the_project_changes(tmp_path: Path) -> None:
    (tmp_path / "meltano.yml").write_text(PROJECT)
    settings = Settings.of({"MELTANO_PROJECT_ROOT": str(tmp_path), "PIANO_ENGAGE_MELTANO": str(MELTANO)})
    cache = tmp_path / "cache" / "schedules.json"
    first = exported(settings, cache)
    (one,) = first["schedules"]["job"]
    assert (one["name"], one["cron_interval"], one["env"]) == ("log", "0 * * * *", {"A": "1"})
    gone = replace(settings, meltano=str(tmp_path / "gone"))
    kept = json.loads(cache.read_text())
    assert exported(settings, cache) == first
    cache.write_text(json.dumps(kept | {"export": {"schedules": {"marked": 1}}}))
    assert exported(settings, cache) == {"schedules": {"marked": 1}}, "it comes from the cache"
    (tmp_path / "meltano.yml").write_text(PROJECT.replace("@hourly", "@daily"))
    assert exported(settings, cache)["schedules"]["job"][0]["cron_interval"] == "0 0 * * *"
    with pytest.raises(RuntimeError, match="gone"):
        exported(gone, cache)


def test_to_be_asked_makes_the_database_of_all_runs_once(tmp_path: Path) -> None:
    """Two first runs at once would both make it, and one of them fail."""
    (tmp_path / "meltano.yml").write_text(PROJECT)
    environ = {"MELTANO_PROJECT_ROOT": str(tmp_path), "PIANO_ENGAGE_MELTANO": str(MELTANO)}
    for path, more in (
        (".meltano/meltano.db", {}),
        ("other.db", {"MELTANO_DATABASE_URI": f"sqlite:///{tmp_path}/other.db"}),
    ):
        exported(Settings.of(environ | more), tmp_path / "cache" / "schedules.json")
        with closing(sqlite3.connect(tmp_path / path)) as base:
            assert {"runs", "state"} <= {name for (name,) in base.execute("SELECT name FROM sqlite_master")}


def test_a_meltano_that_hangs_or_fails_is_told_in_words(settings: Settings, tmp_path: Path) -> None:
    Path(settings.meltano).write_text("#!/bin/sh\necho 'no such project' >&2\nexit 3\n")
    with pytest.raises(RuntimeError, match="no such project"):
        exported(settings, tmp_path / "cache.json")
    Path(settings.meltano).write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(RuntimeError, match="timed out"):
        exported(replace(settings, export_timeout=0.3), tmp_path / "cache.json")
    assert not (tmp_path / "cache.json").exists()
