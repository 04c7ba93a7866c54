"""The metrics of a run, as OpenMetrics text: a file for node exporter's textfile collector, or a push.

All are gauges that describe the last run, so the text means the same in the older form of Prometheus. Names follow
https://prometheus.io/docs/practices/naming/; every sample names its application.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from target_recurly_engage.watch import receiver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from target_recurly_engage.watch.status import Status

PREFIX: Final = "recurly_engage_"
JOB: Final = "recurly_engage"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The push gateway's own form, of which gauges in OpenMetrics are a part."""
STATUSES: Final = ("finished", "incomplete", "stopped", "interrupted", "failed")
READERS: Final = ("new", "changed", "cleared", "again", "unchanged")
REQUESTS: Final = ("acknowledged", "rejected", "held", "waiting")

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its samples: labels beside that of the application, and a value; without a value it is left out."""

    name: str
    help: str
    samples: list[tuple[Labels, float | None]]


def metrics(status: Status, now: datetime) -> Iterator[Metric]:
    """Yield what the last run and the ledger tell."""
    yield from _of_run(status)
    yield from _of_summary(status.summary)
    yield from _of_ledger(status, now)


def _one(name: str, help_: str, value: float | None) -> Metric:
    return Metric(name, help_, [({}, value)])


def _by(name: str, help_: str, label: str, values: Mapping[str, float | None]) -> Metric:
    return Metric(name, help_, [({label: key}, value) for key, value in values.items()])


def _of_run(status: Status) -> Iterator[Metric]:
    yield _one("run_exit_code", "Exit code of the last run; docs/delivery.md says what each means.", status.exit_code)
    well = float(status.exit_code == 0 and not status.incomplete)
    yield _one("run_success", "Whether the last run ended with 0, and its tap well.", well)
    yield _one("run_incomplete", "Whether the tap of the last run did not end well.", float(status.incomplete))
    codes = {kind: float(end["exit_code"]) for kind, end in status.ends.items()}
    yield _by("kind_exit_code", "Exit code of the last run of each kind, by the streams it brought.", "streams", codes)
    yield _one("failing_kinds", "Kinds of runs of which the last one did not end well.", len(status.failing))
    states = {one: float(one == status.run_status) for one in STATUSES}
    yield _by("run_status", "How the last run ended.", "status", states)
    yield _one("run_start_timestamp_seconds", "When the last run began.", _seconds(status.started_at))
    yield _one("run_end_timestamp_seconds", "When the last run ended.", _seconds(status.finished_at))
    yield _one("last_success_timestamp_seconds", "When a run last ended well.", _seconds(status.succeeded_at))


def _of_summary(told: Mapping[str, Any]) -> Iterator[Metric]:
    users, requests_, rows = told.get("users") or {}, told.get("requests") or {}, told.get("rows") or {}
    files, brake = told.get("files") or [], told.get("brake") or {}
    yield _one("run_duration_seconds", "Seconds that the last run took.", told.get("seconds"))
    peak = told.get("peak_memory_mb")
    yield _one("run_memory_peak_bytes", "Most memory of the last run.", None if peak is None else peak * 2.0**20)
    came = {"read": rows.get("read"), "rejected": rows.get("rejected"), "erased": told.get("erased_rows")}
    yield _by("run_rows", "Rows of the last run, by what became of them.", "outcome", came)
    planned = {kind: users.get(kind) for kind in READERS}
    yield _by("run_readers", "Readers of the last run's plan, by what is told.", "outcome", planned)
    sent = {kind: requests_.get(kind) for kind in REQUESTS}
    yield _by("run_requests", "Readers sent to the Ingest API by the last run, by outcome.", "outcome", sent)
    yield _one("run_files", "Files that the last run wrote or uploaded.", len(files) if told else None)
    size = sum(file["bytes"] for file in files) if told else None
    yield _one("run_delivered_bytes", "Bytes of the files that the last run wrote or uploaded.", size)
    yield _one("run_brake_findings", "What the brake found wrong in the last run.", brake.get("findings"))
    yield _one("run_brake_let_through", "Whether the last run's plan was let through.", _flag(brake.get("let_through")))
    sizes = {name: one["readers"] for name, one in (told.get("segments") or {}).items()}
    yield _by("segment_readers", "Readers in a segment.", "segment", sizes)


def _of_ledger(status: Status, now: datetime) -> Iterator[Metric]:
    known, age = status.ledger, status.age_hours(now)
    yield _one("ledger_size_bytes", "Size of the ledger's file.", known.get("bytes"))
    yield _one("ledger_subscriptions", "Subscriptions in the ledger.", known.get("subscriptions"))
    yield _one("ledger_readers", "Users delivered to the current destination.", known.get("readers"))
    rejects = {"waiting": known.get("rejected"), "dropped": known.get("dropped")}
    yield _by("rejects", "Readers whom Engage rejects, by whether they are tried again.", "state", rejects)
    yield _one("invalid_values", "Values that cannot be sent.", known.get("invalid"))
    yield _one("open_deliveries", "Deliveries that were begun and not finished.", known.get("open_deliveries"))
    newest = _seconds(known.get("newest_change"))
    yield _one("newest_change_timestamp_seconds", "The newest change of a subscription that Piano told of.", newest)
    old = None if age is None else round(age * 3600, 3)
    yield _one("newest_change_age_seconds", "How old that change was when the last run ended.", old)


def _flag(value: bool | None) -> float | None:  # noqa: FBT001 - a value of JSON
    return None if value is None else float(value)


def _seconds(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if moment else None


def text(status: Status, now: datetime) -> str:
    """Write the metrics."""
    return "".join(f"{line}\n" for line in _lines(status, now))


def _lines(status: Status, now: datetime) -> Iterator[str]:
    for metric in metrics(status, now):
        samples = [(labels, value) for labels, value in metric.samples if value is not None]
        if not samples:
            continue
        yield f"# HELP {PREFIX}{metric.name} {metric.help}"
        yield f"# TYPE {PREFIX}{metric.name} gauge"
        for labels, value in samples:
            pairs = {"application": status.application, **labels}
            written = ",".join(f'{label}="{_escaped(one)}"' for label, one in pairs.items())
            yield f"{PREFIX}{metric.name}{{{written}}} {value!r}"
    yield "# EOF"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write(folder: Path, status: Status, now: datetime) -> Path:
    """Write ``recurly_engage_<application>.prom`` into the collector's folder, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{JOB}_{re.sub(r'[^A-Za-z0-9_.-]', '_', status.application)}.prom"
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(text(status, now), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def push(url: str, status: Status, now: datetime) -> None:
    """Put the metrics to a push gateway, in a group of the application's own.

    Raises:
        requests.RequestException: it does not answer, or not with success.
    """
    group = f"{url.rstrip('/')}/metrics/job/{JOB}/application/{quote(status.application, safe='')}"
    body = text(status, now).encode()
    receiver.send("PUT", group, data=body, headers={"Content-Type": CONTENT_TYPE})
