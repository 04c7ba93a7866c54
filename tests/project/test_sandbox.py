"""The newcomer's path: start the sandbox, paste its lines, run the job, look at what Engage holds."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml
from piano_engage_sandbox import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FIRST = "# Paste these lines into .env"


@dataclass
class Newcomer:
    """A sandbox as a process of its own, and a system folder for Meltano beside it."""

    folder: Path
    process: subprocess.Popen[str]
    lines: dict[str, str] = field(default_factory=dict)

    def read_lines(self) -> None:
        """Take the lines that `sandbox serve` prints, as a person would."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == FIRST
        while (line := self.process.stdout.readline().strip()) and not line.startswith("TARGET_RECURLY_ENGAGE_AWS_S"):
            name, _, self.lines[name] = line.partition("=")
        name, _, self.lines[name] = line.partition("=")

    def environment(self) -> dict[str, str]:
        """The variables: folders of this test, and the lines that were printed."""
        folder = self.folder
        return {
            "MELTANO_SYS_DIR_ROOT": str(folder / "system"),
            "MELTANO_DATABASE_URI": f"sqlite:///{folder / 'meltano.db'}",
            "NO_COLOR": "1",
            "TAP_PIANO_REJECTS_PATH": str(folder / "rejects"),
            "TARGET_RECURLY_ENGAGE_LEDGER": str(folder / "ledger.duckdb"),
            "TARGET_RECURLY_ENGAGE_HANDOVER_PATH": str(folder / "handover"),
            "TARGET_RECURLY_ENGAGE_RUNS_PATH": str(folder / "runs"),
            "PIANO_ACTIONS_STORE_URL": f"sqlite:///{folder / 'actions.db'}",
            **self.lines,
        }

    def meltano(self, *arguments: str, **variables: str) -> str:
        """`meltano --environment=sandbox …`; gives what it printed."""
        command = [BIN / "meltano", "--environment=sandbox", *arguments]
        environment = os.environ | self.environment() | variables
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self) -> None:
        """`meltano --environment=sandbox run sandbox`."""
        self.meltano("run", "--no-install", "sandbox")

    def exported(self) -> list[dict[str, str]]:
        """The subscription log as the Reports API gives it now."""
        base = self.lines["TAP_PIANO_REPORTS_URL"] + "/export"
        query = {"aid": self.lines["TAP_PIANO_AID"], "api_token": self.lines["TAP_PIANO_API_TOKEN"]}

        def ask(route: str, **more: str) -> Any:  # noqa: ANN401 - JSON
            url = f"{base}/{route}?{urllib.parse.urlencode(query | more)}"
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - localhost
                return json.load(answer)

        # Of the same groups an export of the tap may be at hand already, and nothing has changed since.
        job = ask("schedule/vx/subscriptionLog", attribute_groups="DEFAULT,MODIFY_TIME")
        while (status := ask("status", export_id=job["export_id"])["job_status"]) != "FINISHED":
            assert status in {"CREATED", "IN_PROGRESS"}
            time.sleep(0.02)
        link = ask("download/url", export_id=job["export_id"])["url"]
        with urllib.request.urlopen(link, timeout=30) as answer:  # noqa: S310 - localhost
            return list(csv.DictReader(io.StringIO(answer.read().decode(), newline="")))

    def control(self, path: str, content: object = None) -> Any:  # noqa: ANN401 - JSON
        """Ask the control endpoint, or tell it something."""
        body = None if content is None else json.dumps(content).encode()
        url = f"{self.lines['TARGET_RECURLY_ENGAGE_API_URL']}/_sandbox/{path}"
        with urllib.request.urlopen(url, data=body, timeout=30) as answer:  # noqa: S310 - localhost
            return json.load(answer)

    def sent(self, key: str) -> list[dict[str, str]]:
        """The rows of a file in the bucket."""
        line = "TARGET_RECURLY_ENGAGE_"
        s3 = boto3.session.Session().client(
            "s3",
            region_name="us-west-2",
            endpoint_url=self.lines[f"{line}S3_ENDPOINT_URL"],
            aws_access_key_id=self.lines[f"{line}AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.lines[f"{line}AWS_SECRET_ACCESS_KEY"],
        )
        content = s3.get_object(Bucket=self.lines[f"{line}S3_BUCKET"], Key=key)["Body"].read().decode()
        return list(csv.DictReader(io.StringIO(content, newline="")))

    def files_read(self, count: int) -> list[dict[str, Any]]:
        """The files that Engage has read, once there are so many."""
        deadline = time.monotonic() + 30
        while True:
            files = [file for file in self.control("engage")["files"] if file["status"] == "done"]
            if len(files) >= count:
                return files
            assert time.monotonic() < deadline, self.control("engage")["files"]
            time.sleep(0.02)


@contextmanager
def newcomer_in(folder: Path, *options: str) -> Iterator[Newcomer]:
    """Serve the sandbox, with a clock that stands, to a newcomer who works in *folder*."""
    (folder / "system").mkdir()
    for kind in ("extractors", "loaders", "utilities"):
        (folder / "system" / kind).symlink_to(ROOT / ".meltano" / kind)
    command = [BIN / "sandbox", "serve", "--port=0", "--s3-port=0", "--frozen", "--rows=500", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process:
        found = Newcomer(folder, process)
        found.read_lines()
        yield found
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    with newcomer_in(tmp_path, "--begins=2026-03-28T06:00") as one:
        yield one


def test_what_piano_exports_is_what_engage_holds_and_three_days_later_only_what_changed(newcomer: Newcomer) -> None:
    newcomer.run()
    newcomer.control("clock", {"advance": "1m"})
    (first,) = newcomer.files_read(1)
    exported = newcomer.exported()
    assert first["users"] == len({row["User ID (UID)"] for row in exported})
    reader = next(row for row in exported if row["Subscription status"] == "Active")
    own = {row["Subscription ID"] for row in exported if row["User ID (UID)"] == reader["User ID (UID)"]}
    traits = newcomer.control(f"engage/user/{reader['User ID (UID)']}")["traits"]
    assert traits["subscription_id"] in own
    assert traits["subscription_status"] in {row["Subscription status"] for row in exported}

    newcomer.control("clock", {"advance": "3d"})
    newcomer.run()
    newcomer.control("clock", {"advance": "1m"})
    _, second = newcomer.files_read(2)
    assert 0 < second["users"] < first["users"] / 5
    later = {row["Subscription ID"]: row for row in newcomer.exported()}
    changed = [row["user_id"] for row in newcomer.sent(second["key"])]
    assert len(changed) == second["users"]
    for user in changed:
        held = newcomer.control(f"engage/user/{user}")["traits"]
        assert held["subscription_status"] == later[held["subscription_id"]]["Subscription status"]


def test_settings_of_the_utility_are_the_options_of_the_command() -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    (utility,) = [entry for entry in project["plugins"]["utilities"] if entry["name"] == "sandbox"]
    options = set(vars(serve.parser().parse_args(["serve"]))) - {"command"}
    assert {setting["name"] for setting in utility["settings"]} == options
    assert set(utility["commands"]) == {"serve"}


def test_the_environment_keeps_apart_what_the_others_keep() -> None:
    environments = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))["environments"]
    paths = {
        entry["name"]: {
            str(value)
            for kind in entry["config"]["plugins"].values()
            for plugin in kind
            for given in plugin["config"].values()
            for value in (given.values() if isinstance(given, dict) else [given])
        }
        for entry in environments
    }
    others = set().union(*(values for name, values in paths.items() if name != "sandbox"))
    assert not {value for value in paths["sandbox"] if "$MELTANO" in value} & others
