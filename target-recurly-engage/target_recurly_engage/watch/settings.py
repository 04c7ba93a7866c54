"""The settings of what tells monitors how a run ended."""

from __future__ import annotations

from typing import Final

from singer_sdk import typing as th

from target_recurly_engage.watch.alerts import TEMPLATE

WATCH: Final = (
    th.Property(
        "application",
        th.StringType,
        title="Application",
        description="Name of the application in metrics and alerts; Piano's id of it where there is none.",
    ),
    th.Property(
        "metrics_path",
        th.StringType,
        title="Metrics path",
        description=(
            "Folder of node exporter's textfile collector; each run leaves its metrics there. See docs/production.md."
        ),
    ),
    th.Property(
        "metrics_url",
        th.StringType,
        secret=True,
        title="Metrics URL",
        description="Address of a push gateway of Prometheus, to which each run puts its metrics.",
    ),
    th.Property(
        "alert_url",
        th.StringType,
        secret=True,
        title="Alert URL",
        description="Webhook that gets a message when the status of runs or of the data changes, such as one of Slack.",
    ),
    th.Property(
        "alert_template",
        th.ObjectType(),
        default=TEMPLATE,
        secret=True,  # some receivers want their key in it
        title="Alert template",
        description=(
            "Body of that message, as JSON; in its texts stand `{text}`, `{application}`, `{condition}`, `{status}` "
            "(firing or resolved), `{code}`, `{message}`, `{run_id}` and `{at}`."
        ),
    ),
    th.Property(
        "freshness_hours",
        th.NumberType(minimum=0),
        default=36,
        title="Freshness hours",
        description=(
            "When the newest change of a subscription, or the last run, is older than this, an alert goes out, and "
            "`recurly-engage health` is critical. 0 is never."
        ),
    ),
)
