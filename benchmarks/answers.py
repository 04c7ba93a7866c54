"""What questions to a large ledger cost: one reader explained, all sides reconciled, one reader erased.

    python benchmarks/answers.py [--rows 1000000] [--rounds 3] [--folder FOLDER]

An export of the sandbox's generator goes through tap and target into a ledger, with the delivery `file`. The side of
Piano's API is made of the ledger's own subscriptions, one in a thousand left out. Whole processes, so starting Python
is in every figure; CPU seconds say what it costs where nobody else keeps the machine busy. With `--folder` export and
ledger stay there, and are used again.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from piano_engage_common.duck import file_target

BIN = Path(sys.executable).parent
PEAK = Path(__file__).with_name("peak.py")
AS_OF = "2026-03-28T06:00"
ZONE = "Europe/Amsterdam"
FIELDS = ("subscription_id", "user_id", "api_status", "auto_renew", "start_date", "term_id", "term_name", "read_at")
DIFFERENT = 82


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given.folder or Path(folder), given.rows, given.rounds)


def load(folder: Path, rows: int) -> Path:
    """Make an export and a ledger of it; give the target's settings."""
    export, config = folder / "export.csv", folder / "target.json"
    if config.exists():
        return config
    if not export.exists():
        command = [sys.executable, "-m", "piano_engage_sandbox.data", "--rows", str(rows), "--seed", "7"]
        subprocess.run([*command, "--as-of", AS_OF, "--output", export], check=True)  # noqa: S603 - ours
    batch = {"encoding": {"format": "parquet"}, "storage": {"root": (folder / "batch").as_uri()}}
    (folder / "tap.json").write_text(
        json.dumps({"export_path": str(export), "timezone": ZONE, "batch_config": batch, "rejects_path": str(folder)})
    )
    settings = {
        "ledger": str(folder / "ledger.duckdb"), "output_path": str(folder / "ingest"), "timezone": ZONE,
        "runs_path": str(folder / "runs"), "as_of": f"{AS_OF}:00+02:00",
        "streams": {"subscription_log": {"role": "subscriptions"}, "subscriptions": {"role": "reconcile"}},
    }  # fmt: skip
    config.with_suffix(".part").write_text(json.dumps(settings))
    tap = subprocess.Popen([BIN / "tap-piano", "--config", folder / "tap.json"], stdout=subprocess.PIPE)  # noqa: S603
    run(BIN / "target-recurly-engage", "--config", config.with_suffix(".part"), stdin=tap.stdout)
    tap.wait()
    config.with_suffix(".part").rename(config)
    return config


def run(*command: object, stdin: object = None) -> None:
    """Run a command of ours; differences are no failure here."""
    done = subprocess.run(  # noqa: S603 - ours
        [str(one) for one in command], stdin=stdin, stdout=subprocess.DEVNULL, check=False
    )  # type: ignore[call-overload]
    if done.returncode not in {0, DIFFERENT}:
        sys.exit(done.returncode)


def side_of_api(folder: Path) -> Path:
    """Write Piano's list as the tap would, by what the ledger holds."""
    path = folder / "api.jsonl"
    schema = {"properties": {name: {"type": ["string", "null"]} for name in FIELDS}}
    record = ", ".join(f"{name} := {name}" for name in FIELDS)
    with duckdb.connect(str(folder / "ledger.duckdb"), read_only=True) as connection:
        rows = (
            "SELECT *, lower(subscription_status) AS api_status, now() AS read_at FROM subscriptions "
            "WHERE hash(subscription_id) % 1000 <> 0"
        )
        lines = f"SELECT 'RECORD' AS type, 'subscriptions' AS stream, struct_pack({record}) AS record FROM ({rows})"
        connection.execute(f"COPY ({lines}) TO {file_target(path)} (FORMAT json)")
    announced = json.dumps({"type": "SCHEMA", "stream": "subscriptions", "key_properties": [], "schema": schema})
    path.with_suffix(".all").write_bytes(announced.encode() + b"\n" + path.read_bytes())
    path.with_suffix(".all").rename(path)
    return path


def measure(folder: Path, rows: int, rounds: int) -> None:
    """Ask by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    config = load(folder, rows)
    api = side_of_api(folder)
    run(BIN / "target-recurly-engage", "--config", config, stdin=api.open("rb"))  # as a run brings it
    with duckdb.connect(str(folder / "ledger.duckdb"), read_only=True) as connection:
        ((subscriptions, readers),) = connection.execute(
            "SELECT count(*), count(DISTINCT user_id) FROM subscriptions"
        ).fetchall()
        users = connection.execute("SELECT user_id FROM delivered ORDER BY hash(user_id) LIMIT ?", [rounds]).fetchall()
    seconds: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    for (user,) in users:
        for name, question in {
            "explain --user": ("explain", "--user", user),
            "explain --user, all ready-made segments": ("explain", "--user", user),
            "reconcile": ("reconcile",),
            "reconcile --from FILE": ("reconcile", "--from", api),
            "erase --user, and the file anew": ("erase", "--user", user),
        }.items():
            given, report = folder / "asked.json", folder / "peak.json"
            more = {"segments": "all"} if "segments" in name else {}
            more |= {"delivery": "file"}
            given.write_text(json.dumps(json.loads(config.read_text()) | more))
            if name.startswith("erase"):
                forget_that_engage_was_told(folder, user)
            began, spent = time.monotonic(), cpu_seconds()
            run(sys.executable, PEAK, report, BIN / "recurly-engage", "--config", given, *question)
            seconds.setdefault(name, []).append(time.monotonic() - began)
            busy.setdefault(name, []).append(cpu_seconds() - spent)
            memory[name] = max(memory.get(name, 0), round(max(json.loads(report.read_text()).values())))
    size = (folder / "ledger.duckdb").stat().st_size / 1e6
    print(f"{subscriptions:,} subscriptions of {readers:,} readers, ledger {size:,.0f} MB, {rounds} rounds\n")
    print("| What | seconds (min to max) | CPU seconds | peak MB |\n|---|--:|--:|--:|")
    for name, times in seconds.items():
        spread = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        print(f"| {name} | {spread} | {statistics.median(busy[name]):.2f} | {memory[name]} |")


def cpu_seconds() -> float:
    """Seconds that our children have kept a core busy, the meter of memory among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def forget_that_engage_was_told(folder: Path, user: str) -> None:
    """Have nothing to clear, so that an erasure goes all the way without Engage."""
    with duckdb.connect(str(folder / "ledger.duckdb")) as connection:
        connection.execute("DELETE FROM delivered WHERE user_id = ?", [user])


if __name__ == "__main__":
    main()
