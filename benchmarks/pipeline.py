"""`make benchmark`: the pair under Meltano, side by side with what else there is, in one run.

Prints seconds, rows per second, peak memory and the ratio to DuckDB's own CSV -> CSV of the same file (the bound).
Machines are shared and noisy: the order is repeated, medians are quoted, and ratios tell more than seconds. CPU seconds
tell what it costs where others keep the machine busy; those of the meter of memory are in them.
Peak memory is that of the largest process of a command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
HERE = Path(__file__).resolve().parent
SMALL = 50_000
GROUPS = ("MODIFY_TIME",)


@dataclass
class Measure:
    """What was measured of one command."""

    name: str
    rows: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def timed(measure: Measure, stages: list[list[str]], *, environment: dict[str, str] | None = None) -> None:
    """Run commands as a pipe, and note wall seconds and the peak memory of each."""
    with tempfile.TemporaryDirectory() as folder:
        began, spent = time.monotonic(), cpu_seconds()
        processes: list[subprocess.Popen[bytes]] = []
        for number, command in enumerate(stages):
            report = f"{folder}/{number}"
            wrapped = [sys.executable, str(HERE / "peak.py"), report, *command]
            processes.append(
                subprocess.Popen(  # noqa: S603 - our own commands
                    wrapped,
                    stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if number < len(stages) - 1 else subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | (environment or {}),
                    cwd=ROOT,
                )
            )
        codes = [process.wait() for process in processes]
        measure.seconds.append(time.monotonic() - began)
        measure.cpu_seconds.append(cpu_seconds() - spent)
        if any(codes):
            sys.exit(f"{measure.name}: exit codes {codes}")
        for number, command in enumerate(stages):
            peaks = json.loads(Path(f"{folder}/{number}").read_text(encoding="utf-8"))
            for process, megabytes in peaks.items() or {Path(command[0]).name: 0}.items():
                measure.peak_mb[process] = max(megabytes, measure.peak_mb.get(process, 0))


def cpu_seconds() -> float:
    """Give what the processes that this one started and saw end have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def duckdb_bound(source: Path, target: Path) -> list[str]:
    """The command of the bound: DuckDB reads the CSV as text and writes it again."""
    code = (
        "import duckdb, pathlib, sys; from piano_engage_common.duck import file_source, file_target; "
        "source, target = map(pathlib.Path, sys.argv[1:]); "
        "c = duckdb.connect(config={'threads': 2, 'memory_limit': '512MB'}); "
        'c.execute(f"COPY (FROM read_csv({file_source(source)}, all_varchar = true)) TO {file_target(target)}")'
    )
    return [sys.executable, "-c", code, str(source), str(target)]


def make_log(path: Path, rows: int) -> None:
    """Make an export of 79 columns unless it is there."""
    if path.exists():
        return
    print(f"making {path.name} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "piano_engage_sandbox.data", "--rows", str(rows), "--seed", "7"]
    command += ["--groups", ",".join(GROUPS), "--output", str(path), "--jobs", "2"]
    subprocess.run(command, check=True)  # noqa: S603 - our own command


def meltano(
    log: Path,
    system: Path,
    measure: Measure,
    *,
    afresh: bool = False,
    without_state: bool = False,
    unchanged: str = "skip",
) -> None:
    """Run the pair under Meltano, with a ledger, an output folder and a database of the benchmark's own."""
    if afresh:
        shutil.rmtree(system, ignore_errors=True)
    system.mkdir(exist_ok=True)
    environment = {
        "TAP_PIANO_EXPORT_PATH": str(log),
        "TAP_PIANO_UNCHANGED_FILES": unchanged,
        "TARGET_RECURLY_ENGAGE_LEDGER": str(system / "ledger.duckdb"),
        "TARGET_RECURLY_ENGAGE_OUTPUT_PATH": str(system / "ingest"),
        "TARGET_RECURLY_ENGAGE_RUNS_PATH": str(system / "runs"),
        "MELTANO_DATABASE_URI": f"sqlite:///{system / 'meltano.db'}",
        "MELTANO_ENVIRONMENT": "demo",
    }
    command = [str(BIN / "meltano"), "run", "--no-install", "--force"]
    command += ["--full-refresh"] if without_state else []
    timed(measure, [[*command, "tap-piano", "target-recurly-engage"]], environment=environment)


def benchmark(rows: int, repeats: int, folder: Path, only: str) -> list[Measure]:
    """Measure the bound and what has *only* in its name, *repeats* times in turn."""
    log, small = folder / f"log-{rows}.csv", folder / f"log-{SMALL}.csv"
    make_log(log, rows)
    make_log(small, SMALL)
    tap_config, default_config = folder / "tap.json", folder / "default.json"
    tap_config.write_text(json.dumps({"export_path": str(log), "rejects_path": str(folder / "rejects")}))
    default_config.write_text(json.dumps({"path": str(small)}))
    tap = [str(BIN / "tap-piano"), "--config", str(tap_config)]
    tap_all = folder / "tap-all.json"
    tap_all.write_text(json.dumps({"export_path": str(log), "columns": "all", "rejects_path": str(folder / "rejects")}))
    default = [sys.executable, str(HERE / "baselines.py"), "tap", str(default_config)]
    target_config = folder / "target.json"
    target_config.write_text(json.dumps({"path": str(folder / "default.jsonl")}))
    jsonl = [sys.executable, str(HERE / "baselines.py"), "target", str(target_config)]
    steps: list[tuple[Measure, Callable[[Measure], None]]] = [
        (Measure("DuckDB CSV -> CSV (the bound)", rows), lambda m: timed(m, [duckdb_bound(log, folder / "out.csv")])),
        (Measure("meltano run, first load", rows), lambda m: meltano(log, folder / "system", m, afresh=True)),
        (Measure("meltano run, unchanged repeat", rows), lambda m: meltano(log, folder / "system", m)),
        (
            Measure("meltano run, unchanged repeat, unchanged_files: read", rows),
            lambda m: meltano(log, folder / "system", m, unchanged="read"),
        ),
        (
            Measure("meltano run, unchanged repeat, state lost: all rows again", rows),
            lambda m: meltano(log, folder / "system", m, without_state=True),
        ),
        (Measure("tap-piano, RECORD, default columns", rows), lambda m: timed(m, [tap, ["cat"]])),
        (
            Measure("tap-piano, RECORD, all columns", rows),
            lambda m: timed(m, [[*tap[:-1], str(tap_all)], ["cat"]]),
        ),
        (
            Measure("pandas script", rows),
            lambda m: timed(
                m, [[sys.executable, str(HERE / "baselines.py"), "pandas", str(log), str(folder / "pandas.csv")]]
            ),
        ),
        (Measure("default SDK tap, RECORD", SMALL), lambda m: timed(m, [default, ["cat"]])),
        (Measure("default SDK tap -> default SDK target", SMALL), lambda m: timed(m, [default, jsonl])),
    ]
    steps = [steps[0], *((measure, step) for measure, step in steps[1:] if only in measure.name)]
    for number in range(repeats):
        for measure, step in steps:
            print(f"{number + 1}/{repeats} {measure.name} ...", file=sys.stderr, flush=True)
            step(measure)
    return [measure for measure, _ in steps]


def table(measures: list[Measure]) -> str:
    """Format the figures as a Markdown table; those of the small file are scaled to a million rows as well."""
    bound = measures[0].median / measures[0].rows
    lines = [
        "| What | rows | seconds (min to max) | CPU seconds | rows/s | x the bound | peak MB by process |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for m in measures:
        peaks = ", ".join(f"{process} {peak:.0f}" for process, peak in m.peak_mb.items() if process != "cat")
        lines.append(
            f"| {m.name} | {m.rows:,} | {m.median:.1f} ({min(m.seconds):.1f} to {max(m.seconds):.1f}) | "
            f"{statistics.median(m.cpu_seconds):.1f} | {m.rows / m.median:,.0f} | {m.median / m.rows / bound:.2f} | "
            f"{peaks} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="measure what has this in its name, such as 'meltano run'")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "benchmark")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    measures = benchmark(arguments.rows, arguments.repeats, arguments.folder, arguments.only)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, ", end="")
    print(f"Python {platform.python_version()}; median of {arguments.repeats}\n")
    print(table(measures))


if __name__ == "__main__":
    main()
