"""`make run`: the main job on the shipped sample, twice, and an account of what it did.

It starts afresh each time: the demo's own ledger and `output/ingest` are removed first. Nothing else is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INGEST = ROOT / "output" / "ingest"
LEDGER = ROOT / ".meltano" / "demo"
RUNS = ROOT / "runs"
LOGS = ROOT / "output" / "logs"
MELTANO = Path(sys.executable).with_name("meltano")
COMMAND = "meltano run tap-piano target-recurly-engage"
OWN = {
    "MELTANO_ENVIRONMENT": "demo",
    "TAP_PIANO_AID": "EXAMPLEAID",
    "TAP_PIANO_API_TOKEN": "",
    "TARGET_RECURLY_ENGAGE_DELIVERY": "file",
    "TARGET_RECURLY_ENGAGE_LEDGER": str(LEDGER / "ledger.duckdb"),
    "TARGET_RECURLY_ENGAGE_OUTPUT_PATH": str(INGEST),
    "TARGET_RECURLY_ENGAGE_RUNS_PATH": str(RUNS),
    **dict.fromkeys(
        (f"TARGET_RECURLY_ENGAGE_{name}" for name in ("HANDOVER_PATH", "METRICS_PATH", "METRICS_URL", "ALERT_URL")), ""
    ),
}
"""Where the sample comes from and goes to, whatever stands in `.env`: its invented readers must get nowhere else."""
SHOWN_TRAITS = 6
SHOWN_SEGMENTS = 3


@dataclass(frozen=True)
class Day:
    """One morning of the sample: its export, and the moment of that morning."""

    number: int
    as_of: str

    @property
    def export(self) -> Path:
        """The export of that morning."""
        return ROOT / "samples" / f"subscription-log-day-{self.number}.csv"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a run on it."""
        return OWN | {"TAP_PIANO_EXPORT_PATH": str(self.export), "TARGET_RECURLY_ENGAGE_AS_OF": self.as_of}


DAYS = (Day(1, "2026-03-28T06:00:00+01:00"), Day(4, "2026-03-31T06:00:00+02:00"))


def main() -> int:
    """Run both days and tell about them; the exit code is Meltano's."""
    for path in (LEDGER, INGEST):
        shutil.rmtree(path, ignore_errors=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"{bold('Piano → Recurly Engage')}, on a sample of invented readers. Each step is `{COMMAND}`.")
    summaries = []
    for day in DAYS:
        print(f"\n{bold(f'Day {day.number}')}  {short(day.export)}", flush=True)
        summary = run(day)
        if summary is None:
            return 1
        tell(summary)
        summaries.append(summary)
    explain(*summaries)
    return 0


def run(day: Day) -> dict[str, Any] | None:
    """Run the job on the export of one day; its log goes to a file.

    Returns:
        The summary that the target wrote; None when the run failed, which is then told.
    """
    log = LOGS / f"demo-day-{day.number}.log"
    environment = os.environ | day.environment | {"NO_COLOR": "1"}
    before = set(RUNS.glob("*.json"))
    with log.open("wb") as output, waiting():
        # --force: a demo that was killed a minute ago would be refused until Meltano's heartbeat is stale.
        command = [str(MELTANO), "run", "--force", "tap-piano", "target-recurly-engage"]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)  # noqa: S603 - ours
    new = sorted(set(RUNS.glob("*.json")) - before)
    if done.returncode or not new:
        print(f"  failed with exit code {done.returncode}; the log's end ({short(log)}):")
        print("\n".join(f"  | {line}" for line in log.read_text(encoding="utf-8").splitlines()[-15:]))
        return None
    return dict(json.loads(new[-1].read_text(encoding="utf-8")))


class waiting:  # noqa: N801 - a context manager, read as a word
    """Shows on a terminal that work goes on."""

    def __enter__(self) -> None:
        """Begin."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """End, and leave no trace."""
        self._done.set()
        self._thread.join()

    def _show(self) -> None:
        if not sys.stdout.isatty():
            return
        ticks = 0
        while not self._done.wait(0.3):
            ticks += 1
            print(f"\r  working{'.' * (ticks % 4):3}", end="", flush=True)
        print("\r            \r", end="", flush=True)


def tell(summary: dict[str, Any]) -> None:
    """Tell what one run read and sent."""
    rows, users, merged = summary["rows"], summary["users"], summary["subscriptions"]
    kinds = ", ".join(f"{users[kind]:,} {kind}" for kind in ("new", "changed", "cleared") if users[kind])
    sent = users["new"] + users["changed"] + users["cleared"]
    print(f"  read     {rows['read']:,} rows, {merged['after']:,} subscriptions of {users['total']:,} readers")
    if merged["vanished"]:
        print(f"           {merged['vanished']:,} subscription(s) of the last log have vanished")
    print(f"  sent     {sent:,} readers ({kinds})" if sent else "  sent     nothing: no trait changed")
    for file in summary["files"]:
        print(f"  file     {short(Path(file['location']))} ({file['bytes'] / 1000:,.0f} kB)")
    sizes = sorted(summary["segments"].items(), key=lambda item: -item[1]["entering"] - item[1]["leaving"])
    for segment, size in sizes[:SHOWN_SEGMENTS]:
        moved = f" ({size['entering']:,} in, {size['leaving']:,} out)" if size["readers"] != size["entering"] else ""
        print(f"  segment  {segment}: {size['readers']:,} readers{moved}")
    print(f"  took     {summary['seconds']:.1f} s in the target, {summary['peak_memory_mb']} MB")


def explain(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Tell why the second run sent so little, where things lie and what to do next."""
    users = second["users"]
    changes = {trait: kinds["changed"] + kinds["cleared"] for trait, kinds in second["traits"].items()}
    del changes["days_subscribed"]
    changes = {trait: count for trait, count in changes.items() if not trait.startswith("segment_")}
    most = sorted(changes.items(), key=lambda item: -item[1])[:SHOWN_TRAITS]
    places = {
        f"{short(INGEST)}/*.csv": "what Engage's S3 ingest folder takes as it is",
        f"{short(RUNS)}/{second['run_id']}.json": "what the last run did",
        f"{short(RUNS)}/{second['run_id']}.html": "the same as a page for a browser",
        f"{short(LEDGER)}/ledger.duckdb": "what was written, and where; query it with DuckDB (docs/ledger.md)",
        f"{short(LOGS)}/": "what Meltano said",
    }
    listed = "\n".join(f"  {place:36}{meaning}" for place, meaning in places.items())
    print(f"""
{bold("Why so little on day 4?")}
  The ledger knows what was written on day 1. {users["unchanged"]:,} of {users["total"]:,} readers still have those
  very traits, so nothing is sent for them: {sent_kilobytes(second)} kB instead of {sent_kilobytes(first)} kB.
  `days_subscribed` moved for everybody, which alone sends nothing, but where it crosses 30, 90, 120 or 365.
  Traits that changed most: {", ".join(f"{trait} {count}" for trait, count in most if count)}.

{bold("Where things lie")}
{listed}

{bold("What next")}
  .venv/bin/{COMMAND}   once more: 0 changes, no file
  .venv/bin/meltano invoke recurly-engage:preview          all segments, with sample readers (docs/segments.md)
  Your own export: see "Your own export" in README.md""")


def sent_kilobytes(summary: dict[str, Any]) -> str:
    """Size of what a run sent, in kB."""
    return f"{sum(file['bytes'] for file in summary['files']) / 1000:,.0f}"


def short(path: Path) -> str:
    """Name a path as seen from the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def bold(words: str) -> str:
    """Make words bold on a terminal."""
    return f"\033[1m{words}\033[0m" if sys.stdout.isatty() else words


if __name__ == "__main__":
    sys.exit(main())
