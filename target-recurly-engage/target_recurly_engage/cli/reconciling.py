"""Whether Piano, its log, the ledger and Engage agree."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.stops import InputRefused, SidesDiffer, storage_errors

from target_recurly_engage.cli.asking import as_json, json_of, now_of, open_ledger
from target_recurly_engage.contract import contract_of
from target_recurly_engage.destinations import viewed
from target_recurly_engage.reconcile import reconcile, words_of
from target_recurly_engage.roles import ApiIntake
from target_recurly_engage.streams import RECONCILE_ROLE, streams_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.ledger import Ledger


@click.command("reconcile")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Singer messages with Piano's API list of subscriptions, instead of what runs have left; - is standard input.",
)
@click.option("--stream", help="The stream in it; the one with the role reconcile, or subscriptions.")
@click.option("--limit", type=click.IntRange(min=0), default=10, show_default=True, help="Rows of each list.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1),
    default=0,
    show_default=True,
    help="Share of the subscriptions that may differ, for API and log are read at different moments.",
)
@as_json
@click.pass_obj
def reconcile_sides(
    config: Mapping[str, Any],
    source: str | None,
    stream: str | None,
    limit: int,
    tolerance: float,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Compare Piano's API, its log, what is desired and what Engage acknowledged. Nothing is sent."""
    with open_ledger(config, as_it_is=True) as ledger:
        contract = contract_of(config).with_kinds(ledger.kinds())
        left_out = 0
        if source is not None:
            left_out = _take_in(
                ledger, source, stream or next(iter(streams_of(config, RECONCILE_ROLE)), "subscriptions")
            )
        with viewed(ledger, config):
            found = reconcile(ledger, contract, config, now=now_of(config), limit=None if as_json else limit)
        found["rows_of_erased_readers"] = left_out
        click.echo(json_of(found) if as_json else "\n".join(words_of(found)))
        allowed = tolerance * max(found["totals"]["api"], found["totals"]["log"])
        if found["differences"] > allowed:
            msg = f"{found['differences']:,} difference(s) between Piano's API, its log, the ledger and Engage."
            raise SidesDiffer(msg)


def _take_in(ledger: Ledger, source: str, stream: str) -> int:
    """Read the side of the API from a file or from standard input; the ledger stays as it is.

    Returns:
        How many rows were of readers who were erased, and left out.
    """
    path = Path(source)
    if source == "-":
        path = ledger.work / "piped.jsonl"
        with storage_errors(f"writing {path}"), path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    intake = ApiIntake(ledger, temporary=True)
    intake.take_messages(path, stream)
    intake.finish()
    if intake.rejected:
        properties = ", ".join(sorted(intake.rejected_for)) or " or ".join(intake.key)
        msg = (
            f"stream {stream!r}: {intake.rejected:,} of {intake.rows:,} row(s) cannot be used: {properties} of "
            f"subscription {', '.join(intake.rejected_ids) or '(no id)'}. Correct the tap; nothing was compared."
        )
        raise InputRefused(msg)
    return intake.erased


COMMANDS = (reconcile_sides,)
