"""Alerts: one message when an application's status changes, and one when it is well again.

Three conditions are watched: how the last run of each kind ended, how old the newest change is that Piano told of, and
how long ago a run ended. What the receiver was told last stands in the status; a message that did not arrive is sent
with the next run, or with ``recurly-engage health --alert``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import ConfigRefused

from target_recurly_engage.ended import INCOMPLETE
from target_recurly_engage.watch.status import KIND

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from target_recurly_engage.watch.status import Status

WELL: Final = "ok"
OLD: Final = "old"
SILENT: Final = "silent"
TEMPLATE: Final = {"text": "{text}"}
FIELDS: Final = ("text", "application", "condition", "status", "code", "message", "run_id", "at")
_FIELD: Final = re.compile(r"\{(\w+)\}")
_CODES: Final = {
    1: "an error that nobody foresaw", 65: "input refused", 74: "storage failed", 75: "outage", 76: "answer refused",
    77: "access refused", 78: "configuration refused", 80: "the brake", 81: "too many readers rejected",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition that has changed.

    Attributes:
        condition: ``run`` with the streams that it brought, ``freshness`` or ``silence``.
        state: what it is now.
        text: what a person reads.
    """

    condition: str
    state: str
    text: str


def due(status: Status, now: datetime, *, hours: float, run_ended: bool) -> Iterator[Alert]:
    """Yield what the receiver was not told yet.

    Args:
        status: how the application is.
        now: the moment.
        hours: older data, and a longer silence, are alarming; 0 is never.
        run_ended: a run has just ended, so nobody is silent.
    """
    for condition, (state, words) in _states(status, now, hours=hours, run_ended=run_ended).items():
        before = status.told.get(condition, WELL)
        if state == before:
            continue
        yield Alert(condition=condition, state=state, text=f"{status.application}: {words}")


def _states(status: Status, now: datetime, *, hours: float, run_ended: bool) -> dict[str, tuple[str, str]]:
    found = {f"run {kind}".rstrip(): _of_run(kind, end) for kind, end in status.ends.items()}
    age, silent = status.age_hours(now), 0.0 if run_ended else status.silent_hours(now)
    if age is not None:
        old = bool(hours) and age > hours
        words = f"the newest change that Piano told of is {age:.1f} hours old"
        end = f", more than the {hours:g} of freshness_hours. Is the tap failing, or an old export being read?"
        found["freshness"] = (OLD, words + end) if old else (WELL, f"fresh again: {words}.")
    if silent is not None:
        quiet = bool(hours) and silent > hours
        words = f"no run has ended for {silent:.1f} hours. Is the scheduler running?"
        found["silence"] = (SILENT, words) if quiet else (WELL, "runs end again.")
    return found


def _of_run(kind: str, end: Mapping[str, Any]) -> tuple[str, str]:
    run, code = f"run {end['run_id']}" if end["run_id"] else "a run", end["exit_code"]
    of_kind = f" of {kind.replace(KIND, ', ')}" if kind else ""
    if end.get("incomplete"):
        return INCOMPLETE, f"{run}{of_kind} ended with 0, but is incomplete: {end['message']}"
    if code == 0:
        return WELL, f"well again: {run}{of_kind} ended with 0."
    return str(code), f"{run}{of_kind} ended with {code} ({_CODES.get(code, 'see docs/delivery.md')}): {end['message']}"


def body_of(template: Any, alert: Alert, status: Status, now: datetime) -> Any:  # noqa: ANN401 - JSON
    """Fill the template in; fields stand in its texts, so whatever they hold stays within the text."""
    values = {
        "text": alert.text,
        "application": status.application,
        "condition": alert.condition,
        "status": "resolved" if alert.state == WELL else "firing",
        "code": str(status.exit_code),
        "message": status.message or "",
        "run_id": status.run_id or "",
        "at": now.isoformat(timespec="seconds"),
    }
    return _filled(template, values)


def _filled(part: Any, values: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(part, str):
        return _FIELD.sub(lambda found: values.get(found[1], found[0]), part)
    if isinstance(part, dict):
        return {name: _filled(one, values) for name, one in part.items()}
    if isinstance(part, list):
        return [_filled(one, values) for one in part]
    return part


def check_template(template: Any) -> None:  # noqa: ANN401 - JSON
    """See that a template names only fields that there are.

    Raises:
        ConfigRefused: it names another one.
    """
    unknown = sorted(set(_FIELD.findall(json.dumps(template))) - set(FIELDS))
    if unknown:
        msg = f"alert_template: there is no field {{{unknown[0]}}}. Take {', '.join(f'{{{one}}}' for one in FIELDS)}."
        raise ConfigRefused(msg)
