"""``recurly-engage``: what a person asks of the ledger, with nothing sent.

The settings are the target's, from a file or from the environment, so the answers are those that a run would act on.
Each module of this package holds the commands of one subject; what they share lies in :mod:`.asking`.
"""

from __future__ import annotations

import logging
import sys

import click
from piano_engage_common.stops import exits

from target_recurly_engage.cli import audiences, due, erasing, keeping, promo, readers, reconciling, resending, watching
from target_recurly_engage.cli.asking import LOGGER, settings_of


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "configs", multiple=True, default=("ENV",), show_default=True, help="File of settings, or ENV."
)
@click.version_option(package_name="target-recurly-engage")
@click.pass_context
def main(context: click.Context, configs: tuple[str, ...]) -> None:
    """Ask the ledger of target-recurly-engage."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    with exits(LOGGER):
        context.obj = settings_of(configs)


for command in (
    *due.COMMANDS, *audiences.COMMANDS, *promo.COMMANDS, *readers.COMMANDS, *reconciling.COMMANDS, *resending.COMMANDS,
    *erasing.COMMANDS, *keeping.COMMANDS, *watching.COMMANDS,
):  # fmt: skip
    main.add_command(command)
