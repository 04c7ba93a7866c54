"""What an export of a million rows costs the sandbox: memory of all its processes, and answers to others meanwhile.

    python benchmarks/sandbox_export.py [--rows 1000000]

Starts `sandbox serve` with its S3 server, schedules an export, polls, downloads the file, and asks for the clock
from another connection all the while. Linux only: memory is `VmRSS` of the processes, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from peak import descendants

PIECE = 1 << 20


def memory(process: int) -> float:
    """Add up the resident memory of a process and of all below it, in MB."""
    total = 0
    for member in descendants(process):
        try:
            status = Path(f"/proc/{member}/status").read_text(encoding="utf-8")
        except OSError:
            continue
        found = re.search(r"VmRSS:\s+(\d+)", status)
        total += int(found[1]) if found else 0
    return total / 1024


def ask(url: str) -> dict[str, str]:
    """Get JSON."""
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
        return dict(json.load(answer))


def start(rows: int) -> tuple[subprocess.Popen[str], str]:
    """Start the sandbox and give its address."""
    command = [str(Path(sys.executable).with_name("sandbox")), "serve", "--port", "0", "--s3-port", "0"]
    process = subprocess.Popen([*command, "--rows", str(rows)], stdout=subprocess.PIPE, text=True)  # noqa: S603
    said = ""
    for line in process.stdout or ():
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", said):
            threading.Thread(target=lambda: list(process.stdout or ()), daemon=True).start()
            return process, found[0]
    raise SystemExit("the sandbox did not start")


def main() -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=1_000_000)
    rows = p.parse_args().rows
    process, url = start(rows)
    over = threading.Event()
    peaks: dict[str, float] = {"idle": memory(process.pid)}
    times: list[float] = []

    def watch() -> None:
        while not over.wait(0.1):
            peaks["export"] = max(peaks.get("export", 0.0), memory(process.pid))

    def others() -> None:
        while not over.wait(0.05):
            began = time.perf_counter()
            ask(f"{url}/_sandbox/clock")
            times.append((time.perf_counter() - began) * 1000)

    try:
        app = json.load(urllib.request.urlopen(f"{url}/_sandbox/apps"))[0]  # noqa: S310
        threads = [threading.Thread(target=work) for work in (watch, others)]
        for thread in threads:
            thread.start()
        began = time.perf_counter()
        who = f"aid={app['aid']}&api_token={app['api_token']}"
        job = ask(f"{url}/rest/export/schedule/vx/subscriptionLog?{who}&attribute_groups=MODIFY_TIME")
        while job["job_status"] not in {"FINISHED", "INTERNAL_ERROR"}:
            time.sleep(0.5)
            job = ask(f"{url}/rest/export/status?{who}&export_id={job['export_id']}")
        made = time.perf_counter() - began
        link = ask(f"{url}/rest/export/download/url?{who}&export_id={job['export_id']}")["url"]
        size = lines = 0
        with urllib.request.urlopen(link) as answer:  # noqa: S310
            while piece := answer.read(PIECE):
                size += len(piece)
                lines += piece.count(b"\n")
        took = time.perf_counter() - began - made
    finally:
        over.set()
        for thread in threads:
            thread.join()
        process.terminate()
        process.wait()
    times.sort()
    print(
        f"{job['job_status']}: {size / 1e6:.0f} MB, {lines:,} lines; made in {made:.1f} s, downloaded in {took:.1f} s"
    )
    print(f"memory of all processes of the sandbox: idle {peaks['idle']:.0f} MB, at most {peaks['export']:.0f} MB")
    print(
        f"answers to others meanwhile: median {statistics.median(times):.1f} ms, "
        f"99th percentile {times[int(len(times) * 0.99)]:.1f} ms, slowest {times[-1]:.1f} ms; {os.cpu_count()} cores"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
