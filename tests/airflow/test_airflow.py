"""The DAGs in a real Airflow, as `make airflow-test` runs it: three applications, an outage, a brake, a late run, UI.

Airflow has an environment of its own and, here, a database and a port of its own. Tasks run the real `meltano run` of
the real pair, against the sandbox.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.sandbox.test_page_browser import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

ROOT = Path(__file__).parents[2]
PROGRAM = os.environ.get("AIRFLOW_PROGRAM")
PICTURE = ROOT / "docs" / "images" / "airflow.png"
PATIENCE = 600
APPLICATIONS = "", "north", "south"
PAIR, PREVIEW = "tap-piano{0} target-recurly-engage{0}", "recurly-engage{0}:preview"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Airflow: make airflow-test")


def project(server: Server, folder: Path) -> dict[str, Any]:
    """Write a project of three applications: `log` for all of them, `night` and two that fail for one each."""
    plugins: dict[str, list[dict[str, Any]]] = {"extractors": [], "loaders": [], "utilities": []}
    jobs, schedules = [], []
    lines = server.environment()
    commands = {"preview": "segments preview"}
    for name, app in zip(APPLICATIONS, server.sandbox.piano.values(), strict=True):
        own, more, kind = folder / (name or "base"), f"-{name}" if name else "", f"--{name}" if name else ""
        tap = {
            "aid": app.aid, "api_token": app.token, "api_url": lines["TAP_PIANO_API_URL"],
            "reports_url": lines["TAP_PIANO_REPORTS_URL"], "timezone": app.timezone, "requests_per_second": 0,
            "rejects_path": str(own / "rejects"), "export_poll": 0.05,
        }  # fmt: skip
        target = {
            "ledger": str(own / "ledger.duckdb"), "output_path": str(own / "ingest"), "runs_path": str(own / "runs"),
            "timezone": app.timezone, "as_of": "2026-03-28T06:00:00+01:00",
        }  # fmt: skip
        for place, plugin, config in (
            ("extractors", "tap-piano", tap), ("loaders", "target-recurly-engage", target),
            ("utilities", "recurly-engage", target),
        ):  # fmt: skip
            entry: dict[str, Any] = {"name": plugin + more, "config": config}
            entry |= {"inherit_from": plugin} if name else definition(plugin, config, commands)
            plugins[place].append(entry)
        jobs.append({"name": f"log{kind}", "tasks": [PAIR.format(more), PREVIEW.format(more)]})
        schedules.append({"name": f"log{kind}", "interval": "@hourly", "job": f"log{kind}"})
    jobs += [
        {"name": "night", "tasks": [PAIR.format("")]},
        {"name": "outage", "tasks": [PAIR.format("-north")]},
        {"name": "brake", "tasks": [PAIR.format("-south")]},
        {"name": "late", "tasks": [PREVIEW.format("")]},
    ]
    schedules += [
        {"name": "night", "interval": "5 3 * * *", "job": "night", "env": {"TARGET_RECURLY_ENGAGE_DRY_RUN": "true"}},
        {"name": "outage", "interval": "@daily", "job": "outage", "env": {
            "TARGET_RECURLY_ENGAGE_NORTH_DELIVERY": "ingest", "TARGET_RECURLY_ENGAGE_NORTH_APP_ID": "any",
            "TARGET_RECURLY_ENGAGE_NORTH_API_KEY": "any", "TARGET_RECURLY_ENGAGE_NORTH_API_URL": "http://127.0.0.1:9",
            "TARGET_RECURLY_ENGAGE_NORTH_RETRY_ATTEMPTS": "1", "TARGET_RECURLY_ENGAGE_NORTH_RESEND_AFTER_DAYS": "0",
            "TARGET_RECURLY_ENGAGE_NORTH_AS_OF": "2026-06-28T06:00:00+01:00",
        }},
        {"name": "brake", "interval": "@daily", "job": "brake", "env": {
            "TARGET_RECURLY_ENGAGE_SOUTH_TRAIT_PREFIX": "other_",
            "TARGET_RECURLY_ENGAGE_SOUTH_BRAKE_MAX_CHANGE_FRACTION": "0.01",
        }},
        {"name": "late", "interval": "@daily", "job": "late", "env": {"PIANO_ENGAGE_DEADLINE": "0.01"}},
    ]  # fmt: skip
    return {
        "requires_meltano": ">=4.4", "project_id": "airflow-test", "default_environment": "prod",
        "send_anonymous_usage_stats": False, "cli": {"disable_version_check": True}, "environments": [{"name": "prod"}],
        "plugins": plugins, "jobs": jobs, "schedules": schedules,
    }  # fmt: skip


def definition(plugin: str, config: dict[str, Any], commands: dict[str, str]) -> dict[str, Any]:
    """Define a plugin that is on the path, with the settings that are used."""
    more = {
        "delivery", "app_id", "api_key", "api_url", "retry_attempts", "dry_run", "resend_after_days", "trait_prefix",
        "brake_max_change_fraction",
    }  # fmt: skip
    found = {
        "namespace": {"recurly-engage": "target_recurly_engage"}.get(plugin, plugin.replace("-", "_")),
        "executable": plugin,
        "settings": [{"name": name} for name in sorted({*config, *more})],
    }  # fmt: skip
    if plugin == "recurly-engage":
        return found | {"commands": commands}
    return found | ({"capabilities": ["catalog", "discover", "state"]} if plugin == "tap-piano" else {})


@dataclass
class Airflow:
    """Airflow's API."""

    url: str
    token: str = ""

    def ask(self, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        request = urllib.request.Request(  # noqa: S310 - localhost
            self.url + path, data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - localhost
            return json.load(answer)

    def run(self, dag: str) -> tuple[str, list[dict[str, Any]]]:
        """Have a DAG run once; gives its state and its tasks."""
        self.patch(dag)
        started_ = self.ask(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})
        path = f"/api/v2/dags/{dag}/dagRuns/{started_['dag_run_id']}"
        deadline = time.monotonic() + PATIENCE
        while (state := self.ask(path)["state"]) not in {"success", "failed"}:
            assert time.monotonic() < deadline, self.ask(f"{path}/taskInstances")
            time.sleep(1)
        return state, self.ask(f"{path}/taskInstances")["task_instances"]

    def patch(self, dag: str) -> None:
        request = urllib.request.Request(  # noqa: S310 - localhost
            f"{self.url}/api/v2/dags/{dag}", data=b'{"is_paused": false}', method="PATCH",
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - localhost


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A project against the sandbox, and the environment of Airflow's processes."""
    folder = tmp_path_factory.mktemp("airflow")
    apps = tuple(App(aid=f"AID{n}", name=name or "base", rows=120) for n, name in enumerate(APPLICATIONS))
    with serving(apps=apps) as server:
        (folder / "meltano.yml").write_text(yaml.safe_dump(project(server, folder)))
        home, port = folder / "home", free_port()
        yield folder, {
            "PATH": f"{Path(sys.executable).parent}:{Path(str(PROGRAM)).parent}:/usr/bin:/bin",
            "HOME": str(folder), "LANG": "C.UTF-8", "AIRFLOW_HOME": str(home), "MELTANO_PROJECT_ROOT": str(folder),
            "PIANO_ENGAGE_MELTANO": str(Path(sys.executable).with_name("meltano")),
            "PIANO_ENGAGE_RETRIES": "2", "PIANO_ENGAGE_RETRY_SECONDS": "1",
            "PIANO_ENGAGE_ON_FAILURE": str(hook(folder)), "PIANO_ENGAGE_DEADLINE": "30",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "plugins" / "airflow" / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins" / "airflow" / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false", "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2", "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__API__WORKERS": "1", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        }  # fmt: skip
        keep_logs(home)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def keep_logs(home: Path) -> None:
    """Leave the logs where somebody can read them after a failure."""
    shutil.copytree(home / "logs", ROOT / "output" / "airflow-logs", dirs_exist_ok=True)


def hook(folder: Path) -> Path:
    """Write the program that is called when a step failed for good."""
    path = folder / "hook"
    path.write_text(f'#!/bin/sh\necho "$1,$2,$3,$4" >> {folder / "alarms"}\n')
    path.chmod(0o755)
    return path


def alarms(folder: Path, task: str) -> set[tuple[str, ...]]:
    """Give with which words that program was called for tasks that begin so."""
    path = folder / "alarms"
    lines = path.read_text().splitlines() if path.exists() else []
    return {words for words in (tuple(line.split(",")) for line in lines) if words[2:3] and words[2].startswith(task)}


def airflow(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROGRAM), *arguments], env=environment, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def standing(places: tuple[Path, dict[str, str]]) -> Iterator[Airflow]:
    """Airflow with scheduler, DAG processor and UI."""
    folder, environment = places
    airflow(environment, "db", "migrate")
    with (folder / "standalone.log").open("w") as log, subprocess.Popen(
        [str(PROGRAM), "standalone"], env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
    ) as process:  # fmt: skip
        one = Airflow(f"http://127.0.0.1:{environment['AIRFLOW__API__PORT']}")
        try:
            deadline = time.monotonic() + PATIENCE
            while not one.token:
                assert process.poll() is None, (folder / "standalone.log").read_text()[-3000:]
                assert time.monotonic() < deadline, (folder / "standalone.log").read_text()[-3000:]
                time.sleep(1)
                try:
                    one.token = one.ask("/auth/token")["access_token"]
                except OSError:
                    continue
            while one.ask("/api/v2/dags")["total_entries"] < 5:
                assert time.monotonic() < deadline
                time.sleep(1)
            yield one
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                os.killpg(process.pid, signal.SIGKILL)


def test_all_dags_are_read_without_a_warning(places: tuple[Path, dict[str, str]], standing: Airflow) -> None:
    listed = standing.ask("/api/v2/dags")["dags"]
    assert {one["dag_id"] for one in listed} == {"log", "night", "outage", "brake", "late"}
    assert standing.ask("/api/v2/importErrors")["total_entries"] == 0
    assert standing.ask("/api/v2/dagWarnings")["total_entries"] == 0
    script = "import warnings; warnings.simplefilter('error'); import piano_engage_dags.shell as s; s.load()"
    environment = places[1] | {"PYTHONPATH": places[1]["AIRFLOW__CORE__DAGS_FOLDER"]}
    python = Path(str(PROGRAM)).with_name("python")
    subprocess.run([python, "-W", "ignore", "-c", script], env=environment, check=True)


def test_one_run_of_each_kind_succeeds_and_failures_are_tried_again_only_after_an_outage(
    places: tuple[Path, dict[str, str]], standing: Airflow
) -> None:
    folder = places[0]
    state, tasks = standing.run("log")
    assert state == "success", tasks
    assert {(one["rendered_map_index"], one["state"]) for one in tasks} == {
        (name or "base", "success") for name in APPLICATIONS
    }
    assert len(tasks) == 2 * len(APPLICATIONS)
    for name in APPLICATIONS:
        assert len(list((folder / (name or "base") / "ingest").glob("*.csv"))) == 1, name
    fresh = {f"piano_engage_log_{name or 'base'}" for name in APPLICATIONS}
    deadline = time.monotonic() + 60
    while not fresh <= (told := {one["name"] for one in standing.ask("/api/v2/assets")["assets"]}):
        assert time.monotonic() < deadline, told
        time.sleep(1)
    assert standing.run("night")[0] == "success"

    state, (task,) = standing.run("brake")
    assert (state, task["state"], task["try_number"]) == ("failed", "failed", 1)
    state, (task,) = standing.run("outage")
    assert (state, task["state"], task["try_number"]) == ("failed", "failed", 3)
    step = "application.1-tap-piano-{0}-target-recurly-engage-{0}"
    assert alarms(folder, "application") == {
        ("brake", "base", step.format("south"), "loaders=80"), ("outage", "base", step.format("north"), "loaders=75"),
    }  # fmt: skip


def test_a_late_run_is_told_while_it_runs_and_one_in_time_is_not(
    places: tuple[Path, dict[str, str]], standing: Airflow
) -> None:
    """The run has less than a second, which it never makes; that of `night` has half an hour."""
    assert standing.run("night")[0] == "success"
    assert standing.run("late")[0] == "success", "it is told, not ended"
    deadline = time.monotonic() + PATIENCE
    while not (told := alarms(places[0], "deadline")):
        assert time.monotonic() < deadline, standing.ask("/ui/dags/late/dagRuns/~/deadlines")
        time.sleep(1)
    assert told == {("late", "", "deadline", "minutes=0.01")}
    missed = standing.ask("/ui/dags/~/dagRuns/~/deadlines?missed=true")["deadlines"]
    assert {one["dag_id"] for one in missed} == {"late"}


def test_a_deadline_whose_hook_the_triggerer_would_not_find_is_told_by_airflow(
    places: tuple[Path, dict[str, str]],
) -> None:
    environment = dict(places[1])
    del environment["AIRFLOW__CORE__PLUGINS_FOLDER"]
    command = [str(PROGRAM), "dags", "list-import-errors", "--local", "--output=plain"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "AIRFLOW__CORE__PLUGINS_FOLDER" in done.stdout
    done = subprocess.run(command, env=places[1], capture_output=True, text=True, check=False)
    assert "AIRFLOW__CORE__PLUGINS_FOLDER" not in done.stdout


def test_the_ui_shows_the_dags(standing: Airflow, tmp_path: Path) -> None:
    with started(tmp_path / "profile", "--window-size=1280,800") as browser:
        browser.get(f"{standing.url}/dags")
        names = {"log", "night", "brake", "outage", "late"}
        WebDriverWait(browser, 120).until(
            lambda page: names <= {one.text.strip() for one in page.find_elements(By.CSS_SELECTOR, "a")}
        )
        PICTURE.parent.mkdir(exist_ok=True)
        browser.save_screenshot(str(PICTURE))
    assert PICTURE.stat().st_size > 10_000
