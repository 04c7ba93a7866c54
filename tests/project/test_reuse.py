"""Another Meltano project adds the pair by its definitions, from built packages and with nothing of this checkout."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DEFINITIONS = ROOT / "plugins" / "definitions"
KINDS = {"tap-piano": "extractor", "target-recurly-engage": "loader", "recurly-engage": "utility"}
SAMPLE = "subscription-log-day-4.csv"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """An empty project."""
    root = tmp_path / "other"
    root.mkdir()
    content = {
        "requires_meltano": ">=4.4", "project_id": "other", "default_environment": "dev",
        "environments": [{"name": "dev"}], "send_anonymous_usage_stats": False, "cli": {"disable_version_check": True},
    }  # fmt: skip
    (root / "meltano.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    shutil.copy(ROOT / "samples" / SAMPLE, root)
    return root


def meltano(root: Path, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAP_", "TARGET_", "MELTANO_"))}
    environment = kept | {"NO_COLOR": "1", "XDG_STATE_HOME": str(root / ".meltano")} | settings
    command = [str(BIN / "meltano"), *map(str, arguments)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def add(root: Path, plugin: str, *options: str, **settings: str) -> None:
    reference = DEFINITIONS / f"{plugin}.meltano-hub.yml"
    more = ("add", *options, "--plugin-type", KINDS[plugin], "--from-ref", reference, plugin)
    done = meltano(root, *more, **settings)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_project_adds_the_pair_by_its_definitions(other: Path) -> None:
    for plugin in ("tap-piano", "target-recurly-engage"):
        add(other, plugin, "--no-install")
    added = yaml.safe_load((other / "meltano.yml").read_text(encoding="utf-8"))["plugins"]
    assert [one["name"] for kind in added.values() for one in kind] == ["tap-piano", "target-recurly-engage"]
    assert {one["pip_url"] for kind in added.values() for one in kind} == {"tap-piano", "target-recurly-engage"}
    told = meltano(other, "config", "print", "target-recurly-engage", TARGET_RECURLY_ENGAGE_DELIVERY="s3")
    config = json.loads(told.stdout)
    assert config["delivery"] == "s3"
    assert Path(config["ledger"]) == other / ".meltano" / "ledger.duckdb"


@pytest.mark.parametrize("path", sorted(DEFINITIONS.iterdir()), ids=lambda path: path.name)
def test_definitions_name_no_place_of_this_checkout(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "-e ." not in text
    assert "plugins/requirements" not in text
    content = yaml.safe_load(text)
    assert {"name", "namespace", "variant", "pip_url", "executable", "settings"} <= set(content)


@pytest.mark.slow
@pytest.mark.skipif("REUSE_TEST" not in os.environ, reason="builds and installs packages: make reuse-test")
def test_another_project_runs_the_pair_from_built_packages(other: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    wheels = tmp_path / "wheels"
    build = [uv, "build", "-q", "--all-packages", "--wheel", "--out-dir", str(wheels)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name.split("-")[0] for path in wheels.glob("*.whl")} >= {
        "tap_piano", "target_recurly_engage", "piano_engage_common", "piano_actions",
    }  # fmt: skip
    for plugin in KINDS:
        add(other, plugin, UV_FIND_LINKS=str(wheels))
    run = meltano(
        other, "run", "--no-install", "tap-piano", "target-recurly-engage", "recurly-engage:preview",
        TAP_PIANO_EXPORT_PATH=str(other / SAMPLE), TARGET_RECURLY_ENGAGE_SEGMENTS="all",
        TARGET_RECURLY_ENGAGE_AS_OF="2026-03-31T06:00:00+02:00",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    (sent,) = (other / "output" / "ingest").glob("*.csv")
    with sent.open(encoding="utf-8") as file, (other / SAMPLE).open(encoding="utf-8") as sample:
        told = {row["user_id"] for row in csv.DictReader(file)}
        assert told == {row["User ID (UID)"] for row in csv.DictReader(sample)}
    installed = [path for path in (other / ".meltano").rglob("direct_url.json") if str(ROOT) in path.read_text()]
    assert installed == [], "nothing comes from this checkout"
