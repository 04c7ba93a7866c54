"""The tap over the APIs, against the sandbox: an export beside the same file from disk, and promo codes.

    python benchmarks/tap_api.py [--rows 1000000]

Export: seconds from FINISHED (or, from disk, from the beginning of the sync) to the last record, read from the tap's
own log; both in the same run, by turns. Promo codes: 82 promotions of about 1,000 codes, each answer 100 ms late.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peak import descendants
from piano_engage_sandbox.piano import promotions, promotions_api
from piano_engage_sandbox.piano.jobs import Exports
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from piano_engage_sandbox.server import Server

TAP = Path(sys.executable).with_name("tap-piano")
PROMOTIONS, CODES = 82, 1000
LATENCY = 0.1
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*", re.MULTILINE)


@dataclass
class Run:
    """What a run of the tap left."""

    log: str
    out: Path
    peak: float

    def moment(self, words: str) -> datetime:
        """When the log first said something."""
        line = next(line for line in self.log.splitlines() if words in line)
        return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007 - only differences count

    def seconds(self, first: str, last: str) -> float:
        """Seconds between two lines."""
        return (self.moment(last) - self.moment(first)).total_seconds()


def tap(folder: Path, streams: tuple[str, ...], state: Any = None, **settings: Any) -> Run:  # noqa: ANN401 - JSON
    """Run the tap on some streams, and watch its memory."""
    config, catalog, out = folder / "config.json", folder / "catalog.json", folder / "out.jsonl"
    config.write_text(json.dumps({"rejects_path": str(folder / "rejects"), **settings}))
    found = json.loads(subprocess.run([TAP, "--config", config, "--discover"], check=True, capture_output=True).stdout)  # noqa: S603
    for stream in found["streams"]:
        for entry in stream["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["selected"] = stream["tap_stream_id"] in streams
    catalog.write_text(json.dumps(found))
    command = [TAP, "--config", config, "--catalog", catalog]
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
        command += ["--state", folder / "state.json"]
    with out.open("wb") as lines, (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=lines, stderr=log)  # noqa: S603
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(resident(one) for one in descendants(process.pid)))
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    said = (folder / "log").read_text()
    if process.returncode:
        sys.exit(said)
    return Run(said, out, peak)


def resident(process: int) -> float:
    """Resident memory of a process in MB."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def settings(server: Server, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    """Settings for the tap against the sandbox."""
    lines = server.environment()
    return {
        "aid": lines["TAP_PIANO_AID"],
        "api_token": lines["TAP_PIANO_API_TOKEN"],
        "api_url": lines["TAP_PIANO_API_URL"],
        "reports_url": lines["TAP_PIANO_REPORTS_URL"],
        "timezone": lines["TAP_PIANO_TIMEZONE"],
        **more,
    }


def export(folder: Path, rows: int) -> None:
    """Compare an export from the API with the same file from disk."""
    with serving(rows=rows, switches={"reports.duplicate_window": 1e9}) as server:
        over = settings(server, export_poll=1)
        tap(folder, ("subscription_log",), **over)
        (job,) = server.sandbox.part(Exports).jobs.values()
        disk = folder / "log.csv"
        shutil.copy(job.path, disk)
        plain = {"export_path": str(disk), "aid": over["aid"], "timezone": over["timezone"]}
        batch = {
            "encoding": {"format": "parquet"},
            "storage": {"root": (folder / "batch").as_uri()},
            "batch_size": 500_000,
        }
        end = '"metric":"sync_duration"'
        for mode, more in (("RECORD", {}), ("BATCH", {"batch_config": batch})):
            took: dict[str, list[float]] = {"api": [], "disk": []}
            peaks = {"api": 0.0, "disk": 0.0}
            last = end if mode == "RECORD" else '"metric":"batch_count"'
            for _ in range(3):
                run = tap(folder, ("subscription_log",), **over, **more)
                took["api"].append(run.seconds("finished after", last))
                peaks["api"] = max(peaks["api"], run.peak)
                run = tap(folder, ("subscription_log",), **plain, **more)
                took["disk"].append(run.seconds("Beginning sync", last))
                peaks["disk"] = max(peaks["disk"], run.peak)
                shutil.rmtree(folder / "batch", ignore_errors=True)
            api, local = (statistics.median(took[way]) for way in ("api", "disk"))
            print(
                f"{mode:7} {rows:,} rows, {disk.stat().st_size / 1e6:,.0f} MB: API {api:.1f} s, disk {local:.1f} s, "
                f"ratio {api / local:.2f}; memory {peaks['api']:.0f} and {peaks['disk']:.0f} MB",
                flush=True,
            )


def promo_codes(folder: Path) -> None:
    """Measure the first and the second run over many promo codes, and the pace that is kept."""
    kept = [replace(one, pool=min(one.pool, CODES)) for one in promotions.ALL if one.in_log]
    pools = [
        promotions.Promotion(promotion_id=f"PRBENCH{n:05}", name=f"Pool {n}", code=f"P{n}-", prefix=True, pool=CODES)
        for n in range(PROMOTIONS - len(kept))
    ]
    every = (*kept, *pools)
    promotions.ALL = promotions_api.ALL_PROMOTIONS = every  # type: ignore[misc, attr-defined]
    with serving(rows=100) as server:
        over = settings(server, requests_per_second=0, page_size=1000)
        tap(folder, ("promo_codes",), **over)  # the sandbox makes the codes at first use
        server.control("POST", "reset", {})
        server.control("POST", "faults", {"part": "publisher", "latency": LATENCY})
        for concurrency in (4, 8):
            before = len(server.control("GET", "requests"))
            run = tap(folder, ("promo_codes", "promotions"), **over, concurrency=concurrency)
            answered = server.control("GET", "requests")[before:]
            took = run.seconds("Beginning sync of 'promo_codes'", "promotions: ")
            each = statistics.mean(one["ms"] for one in answered) / 1000
            bounds = [len(answered) * seconds / concurrency for seconds in (LATENCY, each)]
            print(
                f"codes   first run, concurrency {concurrency}: {len(answered)} requests in {took:.2f} s, "
                f"{took / bounds[0]:.2f} x requests x {LATENCY:g} s / concurrency; {took / bounds[1]:.2f} x with the "
                f"{each:.3f} s that the sandbox took",
                flush=True,
            )
        states = [
            line for line in run.out.read_text(encoding="utf-8").splitlines() if line.startswith('{"type":"STATE"')
        ]
        before = len(server.control("GET", "requests"))
        tap(folder, ("promo_codes", "promotions"), json.loads(states[-1])["value"], **over)
        print(f"codes   second run, nothing moved: {len(server.control('GET', 'requests')) - before} request(s)")
        server.control("DELETE", "faults")
        server.control("POST", "limits", {"part": "publisher", "rate": 20, "only_count": True})
        tap(folder, ("promo_codes",), **{**over, "requests_per_second": 20, "concurrency": 16})
        print(
            f"pace    20 a second asked for: {server.control('GET', 'counters')['violations']} violation(s)", flush=True
        )


def main() -> int:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        promo_codes(Path(folder))
        export(Path(folder), arguments.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
