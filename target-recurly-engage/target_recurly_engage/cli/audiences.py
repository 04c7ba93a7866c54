"""Traits and segments: which there are, who is in them, what to type into Pulse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import yaml
from piano_engage_common.stops import exits

from target_recurly_engage.cli.asking import LOGGER, as_json, json_of, now_of, open_ledger
from target_recurly_engage.contract import contract_of
from target_recurly_engage.manifest import as_csv, as_markdown, as_table, manifest
from target_recurly_engage.preview import preview
from target_recurly_engage.preview import words_of as preview_words
from target_recurly_engage.pulse import pulse
from target_recurly_engage.pulse import words_of as pulse_words
from target_recurly_engage.ready import BY_NAME as READY
from target_recurly_engage.shared.snapshots import exists

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command()
@click.option("--format", "form", type=click.Choice(["table", "csv", "markdown", "json"]), default="table")
@click.pass_obj
def traits(config: Mapping[str, Any], form: str) -> None:
    """List the traits that are sent, and what an administrator must still do in Pulse."""
    contract = contract_of(config)
    with exits(LOGGER):
        there = exists(config, LOGGER)
    if there:
        with open_ledger(config) as ledger:
            rows = manifest(ledger, contract.with_kinds(ledger.kinds()))
    else:
        rows = manifest(None, contract)
    written = {"csv": as_csv, "markdown": as_markdown, "json": json_of}
    click.echo(written[form](rows) if form in written else "\n".join(as_table(rows)))


@click.group()
def segments() -> None:
    """Audiences, as the settings define them."""


@segments.command("preview")
@as_json
@click.pass_obj
def preview_segments(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Count who is in each, by what the ledger holds of Piano. Nothing is sent."""
    with open_ledger(config) as ledger:
        found = preview(ledger, contract_of(config).with_kinds(ledger.kinds()), now_of(config))
    click.echo(json_of(found) if as_json else "\n".join(preview_words(found)))


@segments.command("pulse")
@as_json
@click.pass_obj
def pulse_rows(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Print the rows to type into Pulse, and where Engage would understand them otherwise."""
    with exits(LOGGER):
        found = pulse(contract_of(config))
    click.echo(json_of(found) if as_json else "\n".join(pulse_words(found)))


@segments.command("ready")
def ready_segments() -> None:
    """Print the ready-made segments, to be copied and changed."""
    click.echo(yaml.safe_dump(list(READY.values()), sort_keys=False, allow_unicode=True, width=100), nl=False)


COMMANDS = (traits, segments)
