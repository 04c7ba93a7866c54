"""What computed traits, segments and experiments cost: the plan with and without them, and questions to a ledger.

    python benchmarks/segments.py [--rows 1250000] [--rounds 3]

A ledger of invented readers, one subscription in five a second one of its reader. By turns: `recurly-engage plan` with
the traits of the log alone; with the usual computed ones; and with 20 segments and 5 experiments beside all formulas.
Then preview, one reader explained, and the report of a run over that ledger after ten others. Whole processes, so
starting Python is in every figure but the report's, which is written by the run that it tells of.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from target_recurly_engage import report
from target_recurly_engage.brake import Brake
from target_recurly_engage.cli.asking import settings_of
from target_recurly_engage.computed import FORMULAS
from target_recurly_engage.contract import contract_of
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.plan import make_plan
from target_recurly_engage.preview import sizes
from target_recurly_engage.ready import BY_NAME as READY
from target_recurly_engage.summary import Summary

PROGRAM = Path(sys.executable).with_name("recurly-engage")
PEAK = Path(__file__).with_name("peak.py")
NOW = "2026-03-28T06:00:00+00:00"

ROWS = """
    INSERT INTO subscriptions BY NAME SELECT
        'AID' AS aid,
        'RC' || i AS subscription_id,
        'reader-' || (CASE WHEN i % 5 = 0 THEN i + 1 ELSE i END) AS user_id,
        ['Active', 'Active', 'Active', 'Expired', 'Cancelled'][1 + (hash(i) % 5)::INT] AS subscription_status,
        TIMESTAMPTZ '2026-03-28 06:00:00+00' + to_days((hash(i * 3) % 400)::INT - 200) AS access_expiration_date,
        TIMESTAMPTZ '2026-03-28 06:00:00+00' - to_days((hash(i * 7) % 900)::INT) AS start_date,
        CASE WHEN i % 9 = 0 THEN TIMESTAMPTZ '2026-04-01 00:00:00+00' END AS trial_period_end_date,
        i % 50 = 0 AS currently_in_grace_period,
        i % 3 <> 0 AS auto_renew,
        'Payment' AS term_type,
        'TM' || i % 12 AS term_id,
        ['1 month', '1 year'][1 + i % 2] AS billing_period,
        'No upgrade' AS upgrade_status,
        (i % 90)::DECIMAL(18,4) AS total_charged,
        CASE WHEN i % 10 = 0 THEN 'CODE' || i % 30 END AS promo_code
    FROM range(?) AS rows(i)
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_250_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.rows, given.rounds)


def measure(folder: Path, rows: int, rounds: int) -> None:
    """Fill a ledger, and ask it by turns."""
    path = folder / "ledger.duckdb"
    with closing(Ledger(path, memory_limit="320MB")) as ledger:
        ledger.connection.execute(ROWS, [rows])
        readers = ledger.count("SELECT count(DISTINCT user_id) FROM subscriptions")
    formulas = ",".join(formula.name for formula in FORMULAS)
    more = [{**one, "name": f"again_{one['name']}"} for one in list(READY.values())[: 20 - len(READY)]]
    arms = {"control": 0.2, "SPRING20": 0.4, "SPRING50": 0.4}
    all_of_it = {
        "traits": f"all,{formulas}",
        "segments": ["all", *more],
        "experiments": [{"name": f"e{i}", "segment": "win_back" if i % 2 else None, "arms": arms} for i in range(5)],
    }
    asked: dict[str, tuple[list[str], dict[str, Any]]] = {
        "plan, traits of the log": (["plan"], {"traits": "all"}),
        "plan, with the usual computed ones": (["plan"], {}),
        "plan, all computed, 20 segments, 5 experiments": (["plan"], all_of_it),
        "segments preview, 20 segments": (["segments", "preview"], all_of_it),
        "explain --user": (["explain", "--user", "reader-6"], all_of_it),
    }
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    memory: dict[str, int] = {}
    for _ in range(rounds):
        for name, (question, settings) in asked.items():
            config = folder / "config.json"
            config.write_text(json.dumps({"ledger": str(path), "as_of": NOW, **settings}))
            report = folder / "peak.json"
            command = [sys.executable, PEAK, report, PROGRAM, "--config", config, *question, "--json"]
            began = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
            seconds[name].append(time.monotonic() - began)
            memory[name] = max(memory.get(name, 0), round(max(json.loads(report.read_text()).values())))
    memory["report of a run"] = 0
    seconds["report of a run"] = [report_of(folder, path, all_of_it) for _ in range(rounds)]
    base = statistics.median(next(iter(seconds.values())))
    print(f"{rows:,} subscriptions of {readers:,} readers, {rounds} rounds\n")
    print("| What | seconds (min to max) | x the first | peak MB |\n|---|--:|--:|--:|")
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{median:.1f} ({min(times):.1f} to {max(times):.1f})"
        print(f"| {name} | {spread} | {median / base:.2f} | {memory[name]} |")


def report_of(folder: Path, path: Path, settings: dict[str, Any]) -> float:
    """Plan a run over the ledger, and give the seconds that its report takes after that."""
    config = folder / "config.json"
    config.write_text(json.dumps({"ledger": str(path), "as_of": NOW, **settings}))
    given = settings_of((str(config),))
    contract, now = contract_of(given), datetime.fromisoformat(NOW)
    summary = Summary(run_id="this", started_at=datetime.now(tz=UTC), status="finished", brake=Brake())
    with closing(Ledger(path, memory_limit="320MB")) as ledger, ledger.trial():
        summary.plan = make_plan(ledger, contract, now=NOW, clock=NOW, delivery_id="this")
        summary.segments = sizes(ledger, contract)
        ledger.connection.execute("INSERT INTO delivered BY NAME FROM plan")
        told = json.dumps(summary.as_dict())
        for i in range(10):
            ledger.connection.execute(
                "INSERT INTO runs SELECT ?, now() - to_days(?), now(), 'finished', ?", [f"run {i}", i, told]
            )
        began = time.monotonic()
        report.write(folder / "report.html", summary, ledger, contract, now=now)
        return time.monotonic() - began


if __name__ == "__main__":
    main()
