"""The command line: --about, --discover, --test, --catalog, --state, --version."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tap_piano.tap import TapPiano
from tap_piano.workdir import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, StartTap, Tap

SETTINGS = [
    "export_path",
    "aid",
    "api_token",
    "region",
    "columns",
    "timezone",
    "start_date",
    "lookback",
    "promo_code_refresh_days",
    "min_export_share",
    "unchanged_files",
    "rejects_path",
    "max_reject_fraction",
    "memory_limit",
    "api_url",
    "reports_url",
    "reports_token_in",
    "page_size",
    "requests_per_second",
    "concurrency",
    "request_timeout",
    "retry_attempts",
    "retry_wait",
    "retry_seconds",
    "export_wait",
    "export_poll",
]


def test_about_as_json_lists_the_settings(tap: Tap) -> None:
    run = tap(None, "--about", "--format=json")
    assert run.code == 0
    about = json.loads(run.out)
    assert list(about["settings"]["properties"])[: len(SETTINGS)] == SETTINGS
    assert "required" not in about["settings"]
    assert about["settings"]["properties"]["api_token"]["secret"]
    assert {"batch", "catalog", "discover", "state", "activate-version"} <= set(about["capabilities"])


def test_about_as_markdown_has_a_row_for_each_setting(tap: Tap) -> None:
    run = tap(None, "--about", "--format=markdown")
    assert run.code == 0
    for setting in SETTINGS:
        assert f"| {setting} " in run.out.decode()


def test_each_setting_has_a_title_and_says_what_it_is() -> None:
    properties: dict[str, Any] = TapPiano.config_jsonschema["properties"]
    for name in SETTINGS:
        assert properties[name]["title"]
        assert properties[name]["description"].endswith(".")


def test_discovery_works_without_an_export(tap: Tap) -> None:
    run = tap(None, "--discover")
    assert run.code == 0, run.log
    (stream,) = json.loads(run.out)["streams"]
    assert len(stream["schema"]["properties"]) == 99


def test_discovered_catalog_can_be_handed_back(sample: Path, tap: Tap) -> None:
    catalog = json.loads(tap(sample, "--discover").out)
    run = tap(sample, catalog=catalog)
    assert run.code == 0
    assert len(run.records) == 2000
    assert run.leftovers == []


def test_state_goes_round(exports: Exports, make_row: MakeRow, tap: Tap) -> None:
    export = exports.csv([make_row(n, Modify_time=f"2025-01-0{n} 00:00:00 +0000") for n in range(1, 6)])
    first = tap(export)
    second = tap(export, state=first.messages[-1]["value"], lookback=0)
    assert second.code == 0
    assert [record["subscription_id"][-1] for record in second.records] == ["5"]
    assert second.bookmark == first.bookmark == "2025-01-05T00:00:00+00:00"


def test_test_sends_one_record(sample: Path, tap: Tap) -> None:
    run = tap(sample, "--test")
    assert run.code == 0, run.log
    assert len(run.records) == 1
    assert run.leftovers == []


def test_test_schema_sends_none(sample: Path, tap: Tap) -> None:
    run = tap(sample, "--test=schema")
    assert (run.code, run.types) == (0, ["SCHEMA"])


def test_test_of_a_bad_file_fails(exports: Exports, tap: Tap) -> None:
    run = tap(exports.bytes(b"%PDF"), "--test")
    assert run.code == 65
    assert "PDF" in run.errors


@pytest.mark.parametrize("columns", ["term_name", "Term name", '["term_name"]', "term_name,user_id"])
def test_settings_come_from_the_environment(
    columns: str, sample: Path, start_tap: StartTap, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, wait = start_tap
    monkeypatch.setenv("TAP_PIANO_AID", "FromEnv")
    monkeypatch.setenv("TAP_PIANO_COLUMNS", columns)
    monkeypatch.setenv("TAP_PIANO_LOOKBACK", "5")
    run = wait(start(sample, "--config=ENV"))
    assert run.code == 0, run.log
    assert set(run.records[0]) == {"aid", "subscription_id", "user_id", "term_name"}
    assert run.records[0]["aid"] == "FromEnv"


def test_run_folders_of_the_dead_are_swept_and_those_of_the_living_stay(sample: Path, tmp_path: Path, tap: Tap) -> None:
    root = tmp_path / "tmp" / "tap-piano"
    dead = subprocess.Popen(["true"])
    dead.wait()
    now, day = time.time_ns(), 24 * 3600 * 10**9
    living = os.getpid()
    folders = {
        "dead": f"tap-piano-{dead.pid}-{dead.pid}-{now}",
        "orphan": f"tap-piano-1-{dead.pid}-{now}",
        "parent lives": f"tap-piano-{living}-{dead.pid}-{now}",
        "tap lives": f"tap-piano-{dead.pid}-{living}-{now}",
        "of last week": f"tap-piano-{living}-{living}-{now - 7 * day}",
        "not ours": "tap-piano-notes",
    }
    for name in folders.values():
        (root / name).mkdir(parents=True)
        (root / name / "rows.parquet").write_bytes(b"x")
    assert tap(sample).code == 0
    assert {key for key, name in folders.items() if (root / name).exists()} == {"parent lives", "tap lives", "not ours"}


def test_folders_of_a_zombie_and_of_a_number_used_again_are_swept(tmp_path: Path) -> None:
    zombie = subprocess.Popen(["true"])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    now, living, hour = time.time_ns(), os.getpid(), 3600 * 10**9
    left = {
        "zombie": f"tap-piano-{zombie.pid}-{zombie.pid}-{now}",
        "older than this process": f"tap-piano-{living}-{living}-{now - hour * 20}",
        "of this process": f"tap-piano-{living}-{living}-{now}",
    }
    for name in left.values():
        (tmp_path / name).mkdir()
    swept = RunFolder(tmp_path).swept
    zombie.wait()
    assert {path.name for path in swept} == {left["zombie"], left["older than this process"]}
