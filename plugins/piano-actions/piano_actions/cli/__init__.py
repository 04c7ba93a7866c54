"""``piano-actions``: actions by hand. Every command answers in words, or with ``--json`` for a program."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from piano_actions.cli import erasing, notes, promos, serving, subscriptions, telling, webhooks
from piano_actions.cli.asking import Context


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of settings.")
@click.version_option(package_name="piano-actions")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Act on subscriptions at Piano, safely, and tell Engage at once."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    context.obj = Context(config)


for command in (
    *subscriptions.COMMANDS, *promos.COMMANDS, *telling.COMMANDS, *serving.COMMANDS, *webhooks.COMMANDS,
    *notes.COMMANDS, *erasing.COMMANDS,
):  # fmt: skip
    main.add_command(command)
