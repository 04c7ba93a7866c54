"""The job as Meltano runs it: real plugins in environments of their own, set up by `make setup`."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MELTANO = Path(sys.executable).with_name("meltano")
DAY_1, DAY_4 = (ROOT / "samples" / f"subscription-log-day-{day}.csv" for day in (1, 4))


@dataclass
class Project:
    """The project of this checkout, with a system folder, a database, a ledger and folders of its own.

    Runs of one plugin name in one system folder mix up their state and catalog files, so tests must not share it.
    """

    folder: Path

    @property
    def system(self) -> Path:
        """The system folder; the plugins' environments are those that `make setup` made."""
        folder = self.folder / "system"
        for kind in ("extractors", "loaders", "utilities"):
            if not (folder / kind).exists():
                folder.mkdir(exist_ok=True)
                (folder / kind).symlink_to(ROOT / ".meltano" / kind)
        return folder

    def run(self, export: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`meltano run` on an export."""
        command = ("run", "--no-install", *arguments, "tap-piano", "target-recurly-engage")
        return self.meltano(*command, TAP_PIANO_EXPORT_PATH=str(export), **settings)

    def meltano(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run Meltano with the folders of this project."""
        return subprocess.run(
            [MELTANO, *command],
            cwd=ROOT,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self, **settings: str) -> dict[str, str]:
        """The folders of this project, as Meltano takes them, and *settings*."""
        return os.environ | {
            "MELTANO_SYS_DIR_ROOT": str(self.system),
            "MELTANO_DATABASE_URI": f"sqlite:///{self.folder / 'meltano.db'}",
            "MELTANO_ENVIRONMENT": "demo",
            "NO_COLOR": "1",
            "TAP_PIANO_REJECTS_PATH": str(self.folder / "rejects"),
            "TAP_PIANO_BATCH_CONFIG": json.dumps(
                {
                    "encoding": {"format": "parquet"},
                    "storage": {"root": (self.folder / "batch").as_uri()},
                    "batch_size": 700,
                }
            ),
            "TARGET_RECURLY_ENGAGE_LEDGER": str(self.folder / "ledger.duckdb"),
            "TARGET_RECURLY_ENGAGE_OUTPUT_PATH": str(self.folder / "ingest"),
            "TARGET_RECURLY_ENGAGE_RUNS_PATH": str(self.folder / "runs"),
            **settings,
        }

    @property
    def files(self) -> list[Path]:
        """The CSVs, oldest first."""
        return sorted((self.folder / "ingest").glob("*.csv"), key=lambda path: path.stat().st_mtime_ns)

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """The summaries, oldest first."""
        paths = sorted((self.folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose first day was sent; to be copied."""
    one = Project(tmp_path_factory.mktemp("first"))
    done = one.run(DAY_1)
    assert done.returncode == 0, done.stderr
    return one


@pytest.fixture
def after_day_1(first_run: Project, tmp_path: Path) -> Project:
    """A copy of it."""
    shutil.copytree(first_run.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def readers(path: Path) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["User ID (UID)"] for row in csv.DictReader(file)}


def sent(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["user_id"] for row in csv.DictReader(file)]


def test_three_runs_send_all_then_the_changes_then_nothing(project: Project) -> None:
    for number, export in enumerate((DAY_1, DAY_4, DAY_4), start=1):
        done = project.run(export, TARGET_RECURLY_ENGAGE_AS_OF=f"2026-03-{27 + min(number, 2)}T06:00:00Z")
        assert done.returncode == 0, done.stderr
    first, second = project.files
    assert sorted(sent(first)) == sorted(readers(DAY_1))
    assert len(sent(second)) == len(set(sent(second)))
    assert 0 < len(sent(second)) < len(sent(first)) / 10
    third = project.summaries[-1]
    assert (third["status"], third["rows"]["read"], third["files"]) == ("finished", 0, []), "the export did not change"
    assert third["users"]["new"] == third["users"]["changed"] == third["users"]["cleared"] == 0
    assert [path for path in (project.folder / "batch").rglob("*") if path.is_file()] == []


def open_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


AFTER_DAY_1 = pytest.mark.xdist_group("after day 1")


@AFTER_DAY_1
def test_headers_are_what_engage_takes(first_run: Project) -> None:
    (file,) = first_run.files
    header = file.read_text(encoding="utf-8").split("\n", 1)[0].split(",")
    assert header[0] == "user_id"
    assert len(header) == 1 + 29 + 8 + 11, "the reader, the log's traits, the usual computed ones, and the segments"
    assert sum(name.startswith("segment_") for name in header) == 11
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in header)


def test_numbers_from_the_environment_are_taken(project: Project) -> None:
    """Meltano 4.4 cannot hand on a `kind: decimal` that comes from the environment."""
    done = project.run(
        DAY_1,
        TAP_PIANO_MAX_REJECT_FRACTION="0.25",
        TAP_PIANO_REQUESTS_PER_SECOND="0.5",
        TARGET_RECURLY_ENGAGE_BRAKE_MIN_ROWS_FRACTION="0.75",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(project.files) == 1
    refused = project.run(DAY_1, TARGET_RECURLY_ENGAGE_BRAKE_MIN_ROWS_FRACTION="most")
    assert refused.returncode == 1
    assert "'most' is not of type 'number'" in refused.stdout + refused.stderr


@AFTER_DAY_1
def test_the_plan_is_shown_by_the_loader_itself(after_day_1: Project) -> None:
    done = after_day_1.meltano("invoke", "target-recurly-engage:plan", TARGET_RECURLY_ENGAGE_CLEAR_STRING="NONE")
    assert done.returncode == 0, done.stderr
    counts = re.search(r"0 new, ([\d,]+) changed, 0 cleared, ([\d,]+) unchanged; delivery: file", done.stdout)
    assert counts
    changed, unchanged = (int(count.replace(",", "")) for count in counts.groups())
    assert changed > 0
    assert changed + unchanged == len(readers(DAY_1))
    assert len(after_day_1.files) == 1


@AFTER_DAY_1
def test_what_a_person_asks_stands_in_jobs_too_with_the_settings_of_the_loader(after_day_1: Project) -> None:
    done = after_day_1.meltano("run", "--no-install", "recurly-engage:plan", "recurly-engage:preview")
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert f"0 new, 0 changed, 0 cleared, {len(readers(DAY_1)):,} unchanged" in told, "as_of of the environment counts"
    assert "upgrade_candidates: " in told, "its segments too"
    done = after_day_1.meltano("invoke", "recurly-engage:plan", TARGET_RECURLY_ENGAGE_CLEAR_STRING="NONE")
    assert re.search(r"0 new, [1-9][\d,]* changed", done.stdout), "and a variable of the loader"


def test_selecting_everything_lets_no_personal_column_out(project: Project) -> None:
    """Meltano's own default is `*.*`; the setting `columns` stands above it."""
    done = project.run(DAY_1, TAP_PIANO__SELECT='["*.*"]')
    assert done.returncode == 0, done.stderr
    email = next(row["User email"] for row in open_rows(DAY_1) if row["User email"])
    leaked = [path for path in project.folder.rglob("*") if path.is_file() and email.encode() in path.read_bytes()]
    assert leaked == []


def test_an_export_that_is_refused_fails_the_run_and_sends_nothing(project: Project, tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_bytes(DAY_1.read_bytes()[:100_000].rsplit(b",", 1)[0])
    done = project.run(broken)
    assert done.returncode == 1
    assert "broken.csv" in done.stdout + done.stderr
    assert "Download the export again" in done.stdout + done.stderr
    assert project.files == []


@AFTER_DAY_1
def test_a_stopped_target_fails_the_run_and_leaves_the_state(after_day_1: Project, tmp_path: Path) -> None:
    small = tmp_path / "small.csv"
    small.write_bytes(b"\n".join(DAY_1.read_bytes().split(b"\n")[:200]) + b"\n")
    done = after_day_1.run(small)
    assert done.returncode == 1
    assert "brake: " in done.stdout + done.stderr
    assert len(after_day_1.files) == 1
    assert after_day_1.summaries[-1]["status"] == "stopped"
