"""Deliveries against the sandbox: the Ingest API at a limit, beside a naive script, S3 beside a local file, the ledger.

    python benchmarks/delivery.py [--rows 1000000] [--only ingest|naive|s3|ledger]

Ingest: requests a second beside the limit that was set, each answer 50 ms late; the sandbox counts what came too early.
Naive: requests and bytes of one POST a row, beside ours, for the changes of one day. S3: seconds that the file of a
first load takes into the bucket and into a folder, by turns, and the upload alone. Ledger: its size after a first load
and after each of some days on which two readers in a hundred changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from piano_engage_sandbox.server import Server

PEAK = Path(__file__).with_name("peak.py")
LINE = "TARGET_RECURLY_ENGAGE_"
LATENCY = 0.05
STREAM = "subscription_log"
NAMES = ("app_id", "api_key", "api_url", "s3_bucket", "s3_prefix", "s3_endpoint_url", "aws_access_key_id")


def settings(server: Server, folder: Path, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    """Give settings of the target against the sandbox."""
    lines = server.environment()
    found = {
        name: lines[f"{LINE}{name.upper()}"]
        for name in (*NAMES, "aws_secret_access_key")
        if f"{LINE}{name.upper()}" in lines
    }
    places = {"ledger": "ledger.duckdb", "output_path": "ingest", "runs_path": "runs"}
    return {**found, **{name: str(folder / place) for name, place in places.items()}, **more}


TIMED = """
import json, sys, time
from target_recurly_engage.delivery import csvs, s3
from target_recurly_engage.target import TargetRecurlyEngage
took = {}
def timed(kind, name):
    original = getattr(kind, name)
    def call(self, *arguments):
        began = time.monotonic()
        try:
            return original(self, *arguments)
        finally:
            took[name] = time.monotonic() - began
    setattr(kind, name, call)
timed(csvs.CsvDelivery, "_write")
timed(s3.S3Delivery, "_publish")
report = sys.argv.pop(1)
try:
    TargetRecurlyEngage.cli()
finally:
    open(report, "w").write(json.dumps(took))
"""
"""The target, and how long the whole file took (`_write`) and its upload (`_publish`)."""


def target(source: Path, folder: Path, **config: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    """Run the target on messages; gives its summary, its peak memory, and how long its file took."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    report, took = folder / "peak.json", folder / "took.json"
    command = [sys.executable, PEAK, report, sys.executable, "-c", TIMED, took, "--config", path]
    with source.open("rb") as messages:
        done = subprocess.run(command, stdin=messages, capture_output=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        sys.exit(done.stderr.decode())
    newest = max((folder / "runs").glob("*.json"), key=lambda one: one.stat().st_mtime_ns)
    peaks = json.loads(report.read_text())
    # the summary's own figure begins with what this process, which started it, takes
    peak = round(max(peaks.values()))
    return {**json.loads(newest.read_text()), "peak_memory_mb": peak, "took": json.loads(took.read_text())}


def messages(path: Path, readers: int, *, changed: int = 0, code: str = "NEW") -> Path:
    """Write what a tap sends of so many readers; the first of them with another promo code."""
    kinds = {"subscription_id": "string", "user_id": "string", "promo_code": "string", "total_charged": "number"}
    schema = {"type": "object", "properties": {name: {"type": [kind, "null"]} for name, kind in kinds.items()}}
    with path.open("w", encoding="utf-8") as file:
        announced = {"type": "SCHEMA", "stream": STREAM, "key_properties": ["subscription_id"], "schema": schema}
        file.write(json.dumps(announced) + "\n")
        for n in range(readers):
            promo = code if n < changed else "OLD"
            record = {"subscription_id": f"RC{n:09}", "user_id": f"u{n}", "promo_code": promo, "total_charged": 9.5}
            file.write(json.dumps({"type": "RECORD", "stream": STREAM, "record": record}) + "\n")
    return path


def ingest(folder: Path) -> None:
    """Measure the rate that is reached beside the one that is set."""
    for rate, concurrency in ((50, 8), (500, 64)):
        place = folder / str(rate)
        place.mkdir()
        source = messages(place / "messages", rate * 20)
        with serving(rows=5) as server:
            server.control("POST", "faults", {"part": "engage", "latency": LATENCY})
            server.control("POST", "limits", {"part": "engage", "rate": rate, "only_count": True})
            config = settings(server, place, delivery="ingest", requests_per_second=rate, concurrency=concurrency)
            told = target(source, place, **config)
            counters = server.control("GET", "counters")
        requests = told["requests"]
        print(
            f"ingest  limit {rate}/s, {requests['acknowledged']:,} readers in {requests['seconds']:.1f} s: "
            f"{requests['acknowledged'] / requests['seconds'] / rate:.1%} of the limit, "
            f"{counters['violations']} violation(s), most in flight {counters['most_in_flight']}, "
            f"{told['peak_memory_mb']} MB",
            flush=True,
        )


def naive(folder: Path) -> None:
    """Compare with one POST a row, for a day on which two readers in a hundred changed."""
    readers = 2_000
    first, second = messages(folder / "1", readers), messages(folder / "2", readers, changed=readers // 50)
    with serving(rows=5) as server:
        config = settings(server, folder, delivery="ingest", requests_per_second=0, concurrency=32)
        target(first, folder, **config)
        server.control("DELETE", "requests")
        target(second, folder, **config)
        ours = [one for one in server.control("GET", "requests") if one["path"] == "/ingest/property"]
    bodies = [
        len(json.dumps({"id": config["app_id"], "user_id": record["user_id"], "properties": record}))
        for record in (json.loads(line).get("record") for line in second.read_text().splitlines())
        if record
    ]
    print(
        f"naive   {readers:,} rows, {readers // 50} changed: {len(bodies):,} requests ({sum(bodies):,} bytes) "
        f"of a script that posts each row; {len(ours):,} of ours",
        flush=True,
    )


def s3(folder: Path, rows: int) -> None:
    """Compare the file of a first load into the bucket with one into a folder."""
    source = messages(folder / "messages", rows)
    runs: dict[str, list[dict[str, Any]]] = {"file": [], "s3": []}
    for turn in range(3):
        for delivery, told in runs.items():
            with serving(rows=5, s3_port=0, switches={"engage.csv_delay": 1e9}) as server:
                place = folder / f"{delivery}-{turn}"
                place.mkdir()
                told.append(target(source, place, **settings(server, place, delivery=delivery)))
                shutil.rmtree(place)
    local, bucket = ([run["took"]["_write"] for run in runs[name]] for name in ("file", "s3"))
    upload = statistics.median(run["took"]["_publish"] for run in runs["s3"])
    taken, beside = statistics.median(bucket), statistics.median(local)
    whole = [statistics.median(run["seconds"] for run in runs[name]) for name in ("s3", "file")]
    print(
        f"s3      {rows:,} readers, {runs['s3'][0]['files'][0]['bytes'] / 1e6:,.0f} MB: into the bucket {taken:.2f} s "
        f"(upload alone {upload:.2f} s), into a folder {beside:.2f} s, ratio {taken / beside:.2f}; the target's whole "
        f"run {whole[0]:.1f} and {whole[1]:.1f} s, ratio {whole[0] / whole[1]:.2f}; memory "
        f"{runs['s3'][0]['peak_memory_mb']} and {runs['file'][0]['peak_memory_mb']} MB",
        flush=True,
    )


DAYS = 4


def ledger(folder: Path, rows: int) -> None:
    """Tell how large the ledger is after a first load and after each day, and how much of it is free."""
    lines = []
    for day in range(DAYS + 1):
        source = messages(folder / "messages", rows, changed=rows // 50 if day else 0, code=f"DAY{day}")
        config = {"ledger": str(folder / "ledger.duckdb"), "output_path": str(folder / "ingest")}
        told = target(source, folder, **config, runs_path=str(folder / "runs"))
        with duckdb.connect(str(folder / "ledger.duckdb"), read_only=True) as connection:
            free, block = connection.execute("SELECT free_blocks, block_size FROM pragma_database_size()").fetchall()[0]
        size = sum(path.stat().st_size for path in folder.glob("ledger.duckdb*") if path.is_file())
        sent = told["files"][0]["users"] if told["files"] else 0
        lines.append(f"{size / 1e6:,.0f} MB ({free * block / 1e6:,.0f} free; {sent:,} sent, {told['seconds']:.1f} s)")
    print(f"ledger  {rows:,} readers, {rows // 50:,} changed a day: {'; '.join(lines)}", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["ingest", "naive", "s3", "ledger"])
    given = parser.parse_args()
    steps = {
        "ingest": ingest,
        "naive": naive,
        "s3": lambda folder: s3(folder, given.rows),
        "ledger": lambda folder: ledger(folder, given.rows),
    }
    for name, measure in steps.items():
        if given.only in {None, name}:
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder))


if __name__ == "__main__":
    main()
