"""The time zone of the application has one place under Meltano: what sets it there sets it in tap and target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def zone_of(plugin: str, setting: str, folder: Path, **variables: str) -> object:
    """Ask Meltano which time zone a plugin gets."""
    environment = {key: value for key, value in os.environ.items() if "TIMEZONE" not in key}
    command = [Path(sys.executable).with_name("meltano"), "--no-environment", "config", "print", plugin]
    done = subprocess.run(
        command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout)).get(setting)


@pytest.mark.parametrize(
    ("plugin", "setting"),
    [
        ("tap-piano", "timezone"), ("target-recurly-engage", "timezone"), ("recurly-engage", "timezone"),
        ("piano-actions", "target.timezone"),
    ],
)  # fmt: skip
def test_one_variable_sets_the_zone_of_tap_and_target(plugin: str, setting: str, tmp_path: Path) -> None:
    (tmp_path / "meltano.yml").write_bytes((ROOT / "meltano.yml").read_bytes())
    assert zone_of(plugin, setting, tmp_path, PIANO_TIMEZONE="America/New_York") == "America/New_York"


def test_the_variable_of_one_plugin_wins_over_that_of_all(tmp_path: Path) -> None:
    """Meltano would refuse two variables for one setting."""
    (tmp_path / "meltano.yml").write_bytes((ROOT / "meltano.yml").read_bytes())
    variables = {"PIANO_TIMEZONE": "America/New_York", "TARGET_RECURLY_ENGAGE_TIMEZONE": "Asia/Tokyo"}
    assert zone_of("target-recurly-engage", "timezone", tmp_path, **variables) == "Asia/Tokyo"
    assert zone_of("target-recurly-engage", "timezone", tmp_path) is None
