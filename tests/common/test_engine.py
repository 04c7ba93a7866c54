"""The engine that is installed: its version is one of those that may be used, and it does not lose rows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from piano_engage_common import engine
from piano_engage_common.duck import connect
from piano_engage_common.stops import ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GOOD = ("2.0.1", "2.0.2", "2.1.0", "2.1.0.dev300", "2.10.0", "2.99.99", "v2.0.1", "2.1", "2.0.1.post1")
BAD = (
    "2.0.0", "2.0.0.dev100", "2.0.1.dev5", "2.0.1rc1", "2.0", "1.5.6", "1.99.0", "0.10.3", "3.0.0", "3.0.0rc1",
    "10.0.0", "2", "", "unknown", "0.0.0-dev",
)  # fmt: skip


@pytest.mark.parametrize("version", GOOD)
def test_a_version_inside_the_bounds_may_be_used(version: str) -> None:
    assert engine.complaint(version) is None


@pytest.mark.parametrize("version", BAD)
def test_a_version_outside_the_bounds_is_refused_with_what_to_do(version: str) -> None:
    said = engine.complaint(version)
    assert said
    assert said.startswith(f"DuckDB {version} is installed")
    assert f"pip install 'duckdb{engine.BOUNDS}'" in said


def test_the_engine_that_is_installed_may_be_used() -> None:
    assert engine.installed_complaint() is None


def requirements() -> Iterator[tuple[str, str]]:
    for path in sorted(
        [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml"), ROOT / "pyproject.toml"]
    ):
        for one in tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]:
            if re.match(r"duckdb\b", one):
                yield str(path.relative_to(ROOT)), one.removeprefix("duckdb")


def test_every_package_has_the_bounds_that_the_programs_check() -> None:
    found = dict(requirements())
    assert {"common/pyproject.toml", "tap-piano/pyproject.toml", "target-recurly-engage/pyproject.toml"} <= set(found)
    assert set(found.values()) == {engine.BOUNDS}
    numbers = (".".join(map(str, engine.LOWEST)), str(engine.BELOW[0]))
    assert ">={},<{}".format(*numbers) == engine.BOUNDS


PROGRAMS = {
    "tap-piano": ("from tap_piano.tap import TapPiano as T; T.cli()", ["--config", "{config}"]),
    "tap-piano --discover": (
        "from tap_piano.tap import TapPiano as T; T.cli()",
        ["--config", "{config}", "--discover"],
    ),
    "target-recurly-engage": ("from target_recurly_engage.target import TargetRecurlyEngage as T; T.cli()", []),
    "recurly-engage": ("from target_recurly_engage.cli import main; main()", ["plan"]),
    "piano-actions": ("from piano_actions.cli import main; main()", ["serve"]),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_starts_with_a_version_that_must_not_be_used(program: str, tmp_path: Path) -> None:
    start, options = PROGRAMS[program]
    config = tmp_path / "config.json"
    config.write_text('{"export_path": "' + str(tmp_path) + '"}')
    done = subprocess.run(
        [sys.executable, "-c", f"import duckdb; duckdb.__version__ = '2.0.0'; {start}",
         *(one.format(config=config) for one in options)],
        input=b'{"type": "STATE", "value": {}}\n', capture_output=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 78, said
    assert "DuckDB 2.0.0 is installed" in said
    assert "Traceback" not in said
    assert done.stdout == b""
    assert [path for path in tmp_path.iterdir() if path != config] == []


def test_no_connection_is_made_with_a_version_that_must_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piano_engage_common.duck.installed_complaint", lambda: engine.complaint("2.0.0"))
    with pytest.raises(ConfigRefused, match=r"DuckDB 2\.0\.0 is installed"):
        connect()


def test_only_one_place_opens_databases() -> None:
    folders = ("common", "tap-piano", "target-recurly-engage", "plugins/piano-actions")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"duckdb\.connect\(|from duckdb import .*\bconnect\b", line)
    ]
    assert [one.split(":")[0] for one in found] == ["common/piano_engage_common/duck.py"]


# Rows


LOSES_ROWS = """
import sys
import duckdb

rows, changed, threads, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
for number in range(3):
    connection = duckdb.connect(f"{folder}/{number}.duckdb", config={"threads": threads})
    cells = ", ".join(f"'v{k}-' || i AS c{k}" for k in range(30))
    connection.execute(f"CREATE TABLE s AS SELECT 'id' || i AS id, {cells} FROM range({rows}) t(i)")
    connection.execute("CHECKPOINT")
    connection.execute(f"CREATE TEMP TABLE incoming AS FROM s ORDER BY id LIMIT {changed}")
    connection.begin()
    connection.execute("DELETE FROM s USING incoming WHERE s.id = incoming.id")
    connection.execute("INSERT INTO s BY NAME FROM incoming")
    connection.execute("CREATE TEMP TABLE picks AS SELECT rowid AS row FROM s")
    for _ in range(6):
        connection.execute("CREATE OR REPLACE TEMP TABLE slice AS SELECT s.* FROM s JOIN picks ON s.rowid = picks.row")
        if connection.execute("SELECT count(*), count(DISTINCT id) FROM slice").fetchall() != [(rows, rows)]:
            sys.exit(3)
"""
"""Rows that are changed in a transaction, as a merge does, and joined in it by rowid, as nothing here does any more."""


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("rows", "changed"), [(600, 100), (10_000, 2_000)])
def test_the_engine_does_not_lose_rows_that_a_transaction_wrote(
    rows: int, changed: int, threads: int, tmp_path: Path
) -> None:
    """In a process of its own, for DuckDB 2.0.0 crashes as often as it loses rows; there each of the rounds fails."""
    script = [sys.executable, "-c", LOSES_ROWS, str(rows), str(changed), str(threads), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, check=False)
    assert done.returncode == 0, f"DuckDB {duckdb.__version__} loses rows: {done.returncode} {done.stderr.decode()}"


# make engine-test


def rounds(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the engine's tests as `make engine-test` does, without the index."""
    script = "import sys; sys.path.insert(0, 'scripts'); import engines; engines.run(sys.argv[1], engines.QUICK, "
    return subprocess.run(
        [sys.executable, "-c", f"{script}sys.argv[2:], path=None)", *options, "-p", "no:cacheprovider"],
        capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "chosen", "why"),
    [("9.9.9", "bounds", "the tests ended with 4"), (duckdb.__version__, "no_such_test", "the tests ended with 5")],
    ids=["of another version", "without a test"],
)
def test_a_round_with_the_engine_does_not_pass(version: str, chosen: str, why: str) -> None:
    done = rounds(version, "-k", chosen)
    assert done.returncode == 1
    assert why in done.stderr


def test_a_round_with_the_engine_and_a_test_passes() -> None:
    done = rounds(duckdb.__version__, "-k", "same_engine or has_the_bounds")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_programs_that_tests_start_have_the_same_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import duckdb; print(duckdb.__version__)"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == os.environ.get("ENGINE_VERSION", duckdb.__version__)
