"""`make kill-test`: kill the demo with SIGKILL at random moments, go on, and compare with an undisturbed run.

Each round begins afresh, runs day 1 and day 4, and is killed once, with all its processes, at a moment drawn from
the time that an undisturbed round takes. The day that was killed is run again, with nothing cleaned up in between.
In the end the output folder and the ledger must be those of the undisturbed round: as many files, with the same
rows, and not one file that is unfinished.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import duckdb
from run import DAYS, INGEST, LEDGER, LOGS, MELTANO, ROOT, Day

BATCHES = ROOT / ".meltano" / "batch"
LEDGER_TABLES = {
    "subscriptions": "SELECT * FROM subscriptions",
    "delivered": "SELECT COLUMNS(lambda c: c NOT IN ('delivery_id', 'fingerprint')) FROM delivered",
    "files written": "SELECT users, bytes, sha256 FROM deliveries WHERE channel = 'file' AND status = 'written'",
}


def start(day: Day) -> subprocess.Popen[bytes]:
    """Start the job on the export of one day, in a process group of its own."""
    log = (LOGS / "kill-test.log").open("ab")
    command = [str(MELTANO), "run", "--force", "tap-piano", "target-recurly-engage"]
    return subprocess.Popen(  # noqa: S603 - our own
        command, cwd=ROOT, env=os.environ | day.environment, stdout=log, stderr=log, start_new_session=True
    )


def afresh() -> None:
    """Remove what earlier rounds left."""
    for path in (LEDGER, INGEST, BATCHES):
        shutil.rmtree(path, ignore_errors=True)
    LOGS.mkdir(parents=True, exist_ok=True)


def outcome() -> dict[str, Any]:
    """Say what lies in the output folder and in the ledger, as things that can be compared."""
    files = [path for path in INGEST.iterdir() if path.suffix == ".csv"]
    contents = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            contents.append(sorted(csv.reader(file)))
    left = [path.name for path in INGEST.iterdir() if path not in files]
    left += [str(path) for path in BATCHES.rglob("*") if path.is_file()]
    with duckdb.connect(str(LEDGER / "ledger.duckdb"), read_only=True) as ledger:
        tables = {name: sorted(map(repr, ledger.sql(query).fetchall())) for name, query in LEDGER_TABLES.items()}
    return {"files": sorted(contents), "left behind": left, **tables}


def disturbed(kill_after: float) -> str:
    """Run both days, killing all processes once after *kill_after* seconds; say where that hit."""
    afresh()
    hit = "after the end"
    began = time.monotonic()
    for day in DAYS:
        process = start(day)
        try:
            process.wait(timeout=max(kill_after - (time.monotonic() - began), 0) if hit == "after the end" else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hit = f"day {day.number}"
            process = start(day)
        if process.wait():
            sys.exit(f"the job failed after a kill at {kill_after:.2f} s; see {LOGS / 'kill-test.log'}")
    return hit


def main() -> int:
    """Run the undisturbed round, then the others; the exit code says whether all ended alike."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="rounds to kill (default 10)")
    parser.add_argument("--seed", type=int, default=None, help="draws the moments; random when not given")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)  # noqa: S311 - moments of a test
    began = time.monotonic()
    disturbed(kill_after=float("inf"))
    took = time.monotonic() - began
    expected = outcome()
    print(f"undisturbed: {took:.1f} s, {len(expected['files'])} files; seed {seed}", flush=True)
    failed = 0
    for number in range(1, arguments.rounds + 1):
        moment = moments.uniform(0, took)
        hit = disturbed(moment)
        differences = [what for what, value in outcome().items() if value != expected[what]]
        failed += bool(differences)
        verdict = f"DIFFERS in {', '.join(differences)}" if differences else "the same end"
        print(f"round {number}: killed at {moment:.2f} s ({hit}): {verdict}", flush=True)
    print(f"{arguments.rounds - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
