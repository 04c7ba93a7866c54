"""Promo codes: which offers are valid now, and what codes and experiments brought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from target_recurly_engage import results
from target_recurly_engage.cli.asking import as_json, json_of, now_of, open_ledger
from target_recurly_engage.contract import contract_of
from target_recurly_engage.offers import offers, words_of
from target_recurly_engage.problems import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@click.group()
def promo() -> None:
    """Promo codes for prompts."""


@promo.command("offers")
@as_json
@click.pass_obj
def list_offers(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """List the offers that are valid now, and why other promotions are none. Nothing is written."""
    with open_ledger(config) as ledger:
        found = offers(ledger, contract_of(config), now_of(config))
    click.echo(json_of(found) if as_json else "\n".join(words_of(found)))


@promo.command("results")
@click.option("--experiment", help="One experiment only.")
@click.option("--from", "since", type=click.DateTime(["%Y-%m-%d"]), help="Of codes, subscriptions from that day on.")
@as_json
@click.pass_obj
def show_results(
    config: Mapping[str, Any],
    experiment: str | None,
    since: datetime | None,
    as_json: bool,  # noqa: FBT001 - as click calls it
) -> None:
    """Tell conversion by arm of each experiment, with its 95 % interval, and what became of codes."""
    contract = contract_of(config)
    names = [one.name for one in contract.experiments]
    if experiment is not None and experiment not in names:
        msg = f"no experiment {experiment!r}{suggestion(experiment, names)}"
        raise click.UsageError(msg)
    with open_ledger(config) as ledger:
        found = results.results(ledger, contract, now_of(config), since=since.date() if since else None)
    if experiment is not None:
        found["experiments"] = {experiment: found["experiments"][experiment]}
    click.echo(json_of(found) if as_json else "\n".join(results.words_of(found)))


COMMANDS = (promo,)
