"""tap-piano feeds targets of others, from the package index, each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from piano_engage_sandbox.catalogue import ALL_TERMS
from piano_engage_sandbox.testing import serving

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "subscription-log-day-1.csv"
ROWS = 2000
STREAMS = 8

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("other targets")]


def install(folder: Path, *requirements: str) -> Path:
    """Make an environment with the requirements; answer the folder of its programs."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(folder), *requirements], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of target-jsonl."""
    return install(tmp_path_factory.mktemp("jsonl") / "venv", "target-jsonl==0.1.4")


@pytest.fixture(scope="module")
def target_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of target-duckdb."""
    return install(tmp_path_factory.mktemp("duckdb") / "venv", "target-duckdb==0.8.0", "duckdb==1.2.2")


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the tap says of the sample."""
    folder = tmp_path_factory.mktemp("tap")
    config = folder / "tap.json"
    config.write_text(json.dumps({"export_path": str(SAMPLE), "aid": "EXAMPLEAID", "rejects_path": str(folder)}))
    tap = Path(sys.executable).with_name("tap-piano")
    done = subprocess.run([tap, "--config", str(config)], check=True, capture_output=True)
    assert done.stdout.count(b'{"type":"RECORD"') == ROWS
    return done.stdout


def load(target: Path, config: dict[str, str], messages: bytes, folder: Path) -> str:
    """Feed the messages to a target; answer the state it wrote."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    done = subprocess.run([target, "--config", str(path)], input=messages, check=True, capture_output=True)
    return done.stdout.decode().strip().splitlines()[-1]


def expected(messages: bytes) -> dict[str, dict[str, object]]:
    """The records by subscription."""
    lines = (json.loads(line) for line in messages.splitlines())
    return {line["record"]["subscription_id"]: line["record"] for line in lines if line["type"] == "RECORD"}


def test_target_jsonl_loads_all_rows(jsonl: Path, messages: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    state = load(jsonl / "target-jsonl", {"destination_path": str(output)}, messages, tmp_path)
    (file,) = output.iterdir()
    loaded = {row["subscription_id"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
    assert loaded == expected(messages)
    assert "subscription_log" in json.loads(state)["bookmarks"]


def test_target_duckdb_loads_all_rows(target_duckdb: Path, messages: bytes, tmp_path: Path) -> None:
    database = tmp_path / "loaded.duckdb"
    config = {"filepath": str(database), "default_target_schema": "main"}
    load(target_duckdb / "target-duckdb", config, messages, tmp_path)
    query = (
        "import duckdb, json, sys; c = duckdb.connect(sys.argv[1], read_only=True); "
        "print(json.dumps(c.sql('select subscription_id, user_id, term_name, auto_renew, total_charged, "
        "epoch(create_date)::bigint from main.subscription_log').fetchall()))"
    )
    done = subprocess.run([target_duckdb / "python", "-c", query, database], check=True, capture_output=True, text=True)
    loaded = sorted(map(tuple, json.loads(done.stdout)))
    assert loaded == sorted(
        (key, row["user_id"], row["term_name"], row["auto_renew"], row["total_charged"], _epoch(row["create_date"]))
        for key, row in expected(messages).items()
    )


@pytest.fixture(scope="module")
def over_the_apis(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the tap says of all its streams against the sandbox."""
    folder = tmp_path_factory.mktemp("tap-api")
    config = folder / "tap.json"
    with serving(rows=100) as server:
        lines = server.environment()
        settings = {name: lines[f"TAP_PIANO_{name.upper()}"] for name in ("aid", "api_token", "api_url", "reports_url")}
        config.write_text(json.dumps({**settings, "requests_per_second": 0, "rejects_path": str(folder)}))
        tap = Path(sys.executable).with_name("tap-piano")
        return subprocess.run([tap, "--config", str(config)], check=True, capture_output=True).stdout


def by_stream(messages: bytes) -> dict[str, list[dict[str, object]]]:
    """The records by their stream."""
    found: dict[str, list[dict[str, object]]] = {}
    for line in map(json.loads, messages.splitlines()):
        if line["type"] == "RECORD":
            found.setdefault(line["stream"], []).append(line["record"])
    assert len(found) == STREAMS
    return found


def test_target_jsonl_loads_all_streams_of_the_apis(jsonl: Path, over_the_apis: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    load(jsonl / "target-jsonl", {"destination_path": str(output)}, over_the_apis, tmp_path)
    loaded = {
        next(
            stream for stream in sorted(by_stream(over_the_apis), key=len, reverse=True) if file.name.startswith(stream)
        ): [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in output.iterdir()
    }
    assert loaded == by_stream(over_the_apis)


def test_target_duckdb_loads_all_streams_of_the_apis(target_duckdb: Path, over_the_apis: bytes, tmp_path: Path) -> None:
    database = tmp_path / "loaded.duckdb"
    config = {"filepath": str(database), "default_target_schema": "main"}
    load(target_duckdb / "target-duckdb", config, over_the_apis, tmp_path)
    expected_rows = by_stream(over_the_apis)
    query = (
        "import duckdb, json, sys; c = duckdb.connect(sys.argv[1], read_only=True); "
        "print(json.dumps({t: c.sql(f'select count(*) from main.{t}').fetchall()[0][0] for t in sys.argv[2:]})); "
        "print(json.dumps(c.sql('select promotion_id, promotion_name, uses from main.promotions').fetchall()))"
    )
    done = subprocess.run(
        [target_duckdb / "python", "-c", query, database, *expected_rows], check=True, capture_output=True, text=True
    )
    counts, promotions = map(json.loads, done.stdout.splitlines())
    assert counts == {stream: len(rows) for stream, rows in expected_rows.items()}
    assert sorted(map(tuple, promotions)) == sorted(
        (row["promotion_id"], row["promotion_name"], row["uses"]) for row in expected_rows["promotions"]
    )


LOADER = """
project_id: another-project
default_environment: dev
environments: [{{name: dev}}]
send_anonymous_usage_stats: false
plugins:
  extractors:
    - name: tap-piano
      namespace: tap_piano
      executable: {tap}
      capabilities: [catalog, discover, state]
      settings:
        - {{name: aid}}
        - {{name: api_token, sensitive: true}}
        - {{name: api_url}}
        - {{name: reports_url}}
        - {{name: requests_per_second}}
        - {{name: rejects_path}}
  loaders:
    - name: target-duckdb
      namespace: target_duckdb
      executable: {target}
      settings:
        - {{name: filepath}}
        - {{name: default_target_schema}}
"""


@pytest.mark.skipif("REUSE_TEST" not in os.environ, reason="takes half a minute: make reuse-test")
def test_meltano_runs_the_tap_with_target_duckdb_twice(target_duckdb: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    tap, database = Path(sys.executable).with_name("tap-piano"), tmp_path / "loaded.duckdb"
    (project / "meltano.yml").write_text(LOADER.format(tap=tap, target=target_duckdb / "target-duckdb"))
    with serving(rows=100) as server:
        environment = os.environ | {
            **{name: value for name, value in server.environment().items() if name.startswith("TAP_PIANO_")},
            "MELTANO_CLI_DISABLE_VERSION_CHECK": "1",
            "NO_COLOR": "1",
            "TAP_PIANO_REQUESTS_PER_SECOND": "0",
            "TAP_PIANO_REJECTS_PATH": str(tmp_path / "rejects"),
            "TARGET_DUCKDB_FILEPATH": str(database),
            "TARGET_DUCKDB_DEFAULT_TARGET_SCHEMA": "main",
        }
        command = [Path(sys.executable).with_name("meltano"), "run", "--no-install", "tap-piano", "target-duckdb"]
        asked = []
        for _ in range(2):
            done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            asked.append(sum("/promotion/code/list" in one["path"] for one in server.control("GET", "requests")))
        assert asked[0] == asked[1] > 0, "the second run went on from the state of the first"
    query = (
        "import duckdb, json, sys; c = duckdb.connect(sys.argv[1], read_only=True); "
        "print(json.dumps([c.sql(f'select count(*), count(distinct {k}) from main.{t}').fetchall()[0] "
        "for t, k in [('subscription_log', 'subscription_id'), ('terms', 'term_id')]]))"
    )
    done = subprocess.run([target_duckdb / "python", "-c", query, database], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[100, 100], [len(ALL_TERMS), len(ALL_TERMS)]]


def _epoch(stamp: object) -> int:
    return int(datetime.fromisoformat(str(stamp)).timestamp())
