"""What tells monitors how a run ended. What goes wrong here is told in the log, and no run fails for it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import requests
from piano_engage_common.stops import RunStopped
from singer_sdk.singerlib.json import deserialize_json

from target_recurly_engage.settings import PREFIX, SETTINGS
from target_recurly_engage.watch import alerts, metrics, receiver
from target_recurly_engage.watch.status import NAMELESS, Status, held, words_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

    from target_recurly_engage.summary import Summary
    from target_recurly_engage.target import TargetRecurlyEngage

WATCHING: Final = (
    "application", "runs_path", "metrics_path", "metrics_url", "alert_url", "alert_template", "freshness_hours",
    "dry_run",
)  # fmt: skip
_NOT_TOLD: Final = "%s could not be told: %s; it is tried again with the next run"
SECRETS: Final = tuple(name for name, schema in SETTINGS["properties"].items() if schema.get("secret"))


def as_given(config: Mapping[str, Any], *, environment: bool) -> dict[str, Any]:
    """Read the settings of watching when others are refused: those given, and defaults where they make no sense."""
    found = dict(config)
    if environment:
        names = (name for name in (*WATCHING, *SECRETS) if f"{PREFIX}{name.upper()}" in os.environ)
        found |= {name: os.environ[f"{PREFIX}{name.upper()}"] for name in names}
    for name in WATCHING:
        schema = SETTINGS["properties"][name]
        if "default" in schema:
            found.setdefault(name, schema["default"])
    try:
        found["freshness_hours"] = float(found["freshness_hours"])
        if isinstance(found["alert_template"], str):
            found["alert_template"] = deserialize_json(found["alert_template"])
        alerts.check_template(found["alert_template"])
    except (ValueError, TypeError, RunStopped):
        found |= {name: SETTINGS["properties"][name]["default"] for name in ("freshness_hours", "alert_template")}
    return found


class Watcher:
    """Watches one run, as a context manager around all of it.

    Args:
        config: the settings, as far as they are known.
        logger: is told of what could not be told.

    Attributes:
        target: the target, once its settings are found right.
    """

    def __init__(self, config: Mapping[str, Any], logger: logging.Logger) -> None:
        """Remember what to watch by."""
        self.target: TargetRecurlyEngage | None = None
        self._config = config
        self._logger = logger

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Tell how it ended; *error* goes on its way."""
        with never_failing(self._logger, "the end of the run"):
            config = self.target.config if self.target else self._config
            summary = self.target.summary if self.target else None
            if str(config["dry_run"]).lower() in {"true", "1"} or (error is None and summary is None):
                return
            streams = self.target.streams if self.target else ()
            self._tell(config, error, summary, streams)

    def _tell(
        self, config: Mapping[str, Any], error: BaseException | None, summary: Summary | None, streams: Iterable[str]
    ) -> None:
        folder, now = Path(config["runs_path"]), datetime.now(tz=UTC)
        words = words_of(error, summary, {name: config.get(name) for name in SECRETS})
        with held(folder):
            status = Status.read(folder) or Status()
            status.note(code=code_of(error), message=words, summary=summary, streams=streams, now=now)
            status.application = name_of(config, status)
            with never_failing(self._logger, "metrics"):
                write_metrics(config, status, now)
            tell(config, status, now, self._logger, run_ended=True)
            status.write(folder)


def name_of(config: Mapping[str, Any], status: Status) -> str:
    """Give the application's name: the setting, else Piano's id of it, as far as the ledger knows it."""
    return str(config.get("application") or status.ledger.get("aid") or NAMELESS)


def code_of(error: BaseException | None) -> int:
    """Give the exit code with which the process will end."""
    if error is None:
        return 0
    if isinstance(error, RunStopped):
        return error.exit_code
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1


def write_metrics(config: Mapping[str, Any], status: Status, now: datetime) -> None:
    """Write and push metrics, where the settings ask for them."""
    if config.get("metrics_path"):
        metrics.write(Path(config["metrics_path"]), status, now)
    if config.get("metrics_url"):
        metrics.push(config["metrics_url"], status, now)


def tell(
    config: Mapping[str, Any], status: Status, now: datetime, logger: logging.Logger, *, run_ended: bool = False
) -> None:
    """Send the alerts that are due, and note in the status which of them arrived."""
    if not config.get("alert_url"):
        return
    hours = float(config["freshness_hours"])
    for alert in list(alerts.due(status, now, hours=hours, run_ended=run_ended)):
        with never_failing(logger, f"an alert ({alert.condition}: {alert.state})"):
            body = alerts.body_of(config["alert_template"], alert, status, now)
            receiver.send("POST", config["alert_url"], json=body)
            status.told[alert.condition] = alert.state
            logger.info("alert sent: %s is %s now", alert.condition, alert.state)


@contextmanager
def never_failing(logger: logging.Logger, what: str) -> Iterator[None]:
    """Tell the log of what goes wrong, without the address: it may hold a secret."""
    try:
        yield
    except requests.HTTPError as e:
        answered = e.response.status_code if e.response is not None else "nothing"
        logger.warning(_NOT_TOLD, what, f"the receiver answered {answered}")
    except Exception as e:  # noqa: BLE001 - the run went as it went
        logger.warning(_NOT_TOLD, what, type(e).__name__)
