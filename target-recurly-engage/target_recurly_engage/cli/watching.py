"""Whether all is well, for people and for monitors."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import duckdb
from piano_engage_common.duck import connect

from target_recurly_engage.cli.asking import LOGGER, as_json, json_of
from target_recurly_engage.ledger import in_use
from target_recurly_engage.watch.status import KIND, SIGNALLED, Status, held
from target_recurly_engage.watch.watcher import name_of, never_failing, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WELL: Final = 0
WARNING: Final = 1
CRITICAL: Final = 2
UNKNOWN: Final = 3
"""Exit codes as Nagios, Icinga and Sensu read them."""
WORDS: Final = {WELL: "ok", WARNING: "warning", CRITICAL: "critical", UNKNOWN: "unknown"}
OUTAGE: Final = 75

Problem = tuple[int, str]


@click.command()
@click.option("--alert", is_flag=True, help="Send alerts where the status has changed since the last one.")
@as_json
@click.pass_obj
def health(config: Mapping[str, Any], alert: bool, as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Say whether all is well. Exit code: 0 ok, 1 warning, 2 critical, 3 nothing is known.

    With --alert it ends with 0, for the alert was sent, and a job should not fail for it.
    """
    now, folder = datetime.now(tz=UTC), Path(config["runs_path"])
    status = _alerted(config, folder, now) if alert else Status.read(folder)
    if status is not None and status.finished_at is None:
        status = None
    problems = sorted(_problems(config, status, now), reverse=True)
    level = max((code for code, _ in problems), default=WELL)
    answer = _answer(config, status, now) | {"status": WORDS[level], "problems": [words for _, words in problems]}
    click.echo(json_of(answer) if as_json else "\n".join(_lines(answer)))
    sys.exit(WELL if alert else level)


def _alerted(config: Mapping[str, Any], folder: Path, now: datetime) -> Status:
    """Send the alerts that are due, and give the status; it begins here where no run has ended yet."""
    with held(folder):
        status = Status.read(folder) or Status(watched_since=now.isoformat())
        status.application = name_of(config, status)
        tell(config, status, now, LOGGER)
        with never_failing(LOGGER, "the status"):
            status.write(folder)
    return status


def _problems(config: Mapping[str, Any], status: Status | None, now: datetime) -> Iterator[Problem]:
    if status is None:
        yield UNKNOWN, f"no run has ended yet that left its status in {config['runs_path']} (runs_path)"
        return
    hours = float(config["freshness_hours"])
    age, silent = status.age_hours(now), status.silent_hours(now)
    if status.exit_code >= SIGNALLED:
        yield WARNING, f"the last run ended with {status.exit_code}: {status.message}"
    for kind, end in status.failing.items():
        level = WARNING if end["exit_code"] in {0, OUTAGE} else CRITICAL
        of_kind = f" of {kind.replace(KIND, ', ')}" if kind else ""
        how = f"ended with {end['exit_code']}" if end["exit_code"] else "is incomplete"
        yield level, f"the last run{of_kind} {how}: {end['message']}"
    if hours and age is not None and age > hours:
        yield CRITICAL, f"the newest change that Piano told of is {age:.1f} hours old; freshness_hours is {hours:g}"
    if hours and silent is not None and silent > hours:
        yield CRITICAL, f"no run has ended for {silent:.1f} hours; freshness_hours is {hours:g}"
    if count := status.ledger.get("open_deliveries"):
        yield WARNING, f"{count:,} deliveries are not finished; the next run settles them"
    state = _ledger_state(config)
    if state == "missing" and status.ledger:
        yield CRITICAL, f"the ledger is gone: {config['ledger']}. Put back a backup before the next run"
    if state == "unreadable":
        yield CRITICAL, f"the ledger cannot be opened: {config['ledger']}. The next run ends with 74 and says why"


def _ledger_state(config: Mapping[str, Any]) -> str:
    """Say whether the file is there, and whether a run has it; of one that others own nothing can be said."""
    place = str(config["ledger"])
    if "://" in place:
        return "shared"
    if not Path(place).is_file():
        return "missing"
    if not os.access(place, os.R_OK):
        return "not ours"
    try:
        connect(Path(place), read_only=True).close()
    except duckdb.Error as e:
        return "in use" if in_use(e) else "unreadable"
    return "free"


def _answer(config: Mapping[str, Any], status: Status | None, now: datetime) -> dict[str, Any]:
    known = status or Status()
    age, requests = known.age_hours(now), known.summary.get("requests") or {}
    return {
        "application": name_of(config, known),
        "last_run": {
            "run_id": known.run_id,
            "status": known.run_status,
            "exit_code": known.exit_code if status else None,
            "incomplete": known.incomplete if status else None,
            "message": known.message,
            "finished_at": known.finished_at,
            "succeeded_at": known.succeeded_at,
        },
        "newest_change": known.ledger.get("newest_change"),
        "newest_change_hours": None if age is None else round(age, 1),
        "rejected": known.ledger.get("rejected"),
        "pending": {"held": requests.get("held", 0), "open_deliveries": known.ledger.get("open_deliveries", 0)},
        "ledger": {"path": str(config["ledger"]), "state": _ledger_state(config), "bytes": known.ledger.get("bytes")},
    }


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    run, ledger = answer["last_run"], answer["ledger"]
    yield f"{answer['application']}: {answer['status']}"
    yield from (f"  {problem}" for problem in answer["problems"])
    if run["finished_at"]:
        yield f"  last run     {run['run_id']} ended with {run['exit_code']} at {run['finished_at'][:19]}"
        yield f"  last success {(run['succeeded_at'] or 'none')[:19]}"
    if answer["newest_change"]:
        yield f"  newest data  {answer['newest_change'][:19]}, {answer['newest_change_hours']:g} hours old"
    yield f"  rejected     {answer['rejected'] or 0:,} reader(s); held {answer['pending']['held']:,}"
    yield f"  ledger       {ledger['state']}, {(ledger['bytes'] or 0) / 1e6:,.1f} MB, {ledger['path']}"


COMMANDS = (health,)
