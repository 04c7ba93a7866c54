"""Commands about what Engage is told at once."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click
from tap_piano.answers import NotFound

from piano_actions.cli.asking import EXIT_REFUSED, EXIT_UNKNOWN, as_json, counted, dry_run, json_of, user
from piano_actions.cli.notes import moment_of
from piano_actions.pushes import Told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_actions.cli.asking import Context


SENTENCES: Final = {
    Told.TOLD: "Engage was told what changed.",
    Told.NOTHING: "Nothing differs from what Engage was told before.",
    Told.LATER: "Piano, Engage or the ledger was not to be had. It is kept; `piano-actions traits send` tries again.",
    Told.REJECTED: "Engage does not take this reader; what it answered stands above.",
    Told.ERASED: "This reader was erased; Engage is told nothing of him.",
    Told.UNKNOWN: "Piano knows no subscription of this reader: --user takes Piano's uid.",
}

ENDS: Final = {Told.LATER: EXIT_UNKNOWN, Told.REJECTED: EXIT_REFUSED, Told.UNKNOWN: EXIT_REFUSED}
"""Exit codes of what is not as it was asked for; all others are 0."""


@click.group()
def traits() -> None:
    """What Engage is told of single readers between two runs."""


@traits.command()
@user
@dry_run
@as_json
@click.pass_obj
def push(context: Context, user: str, *, dry_run: bool, as_json: bool) -> None:
    """Read a reader from Piano, and tell Engage what differs from what it was told."""
    with context.pushing() as pusher:
        if dry_run:
            with suppress(NotFound):
                _would(pusher.preview(user).properties, as_json=as_json)
                return
            told = Told.UNKNOWN
        else:
            pusher.store.want_push(user)
            told = pusher.push(user)
    click.echo(json_of({"status": str(told)}) if as_json else f"{told}: {SENTENCES[told]}")
    sys.exit(ENDS.get(told, 0))


def _would(found: Mapping[str, object], *, as_json: bool) -> None:
    """Say what would be told."""
    if as_json:
        click.echo(json_of({"status": "would", "traits": found}))
        return
    click.echo(f"would: Engage would be told {len(found):,} trait(s)")
    for name, value in found.items():
        click.echo(f"  {name}: {value}")


@traits.command()
@as_json
@click.pass_obj
def pending(context: Context, *, as_json: bool) -> None:
    """List what is still to be told; readers stand there as salted hashes."""
    with context.store() as store:
        rows = store.pushes()
    for row in rows:
        row |= {"asked_at": moment_of(row["asked_at"]), "next_at": moment_of(row["next_at"])}
    if as_json:
        click.echo(json_of(rows))
        return
    for row in rows:
        click.echo(
            f"{row['asked_at']}  reader {row['reader'][:12]}  {row['attempts']} attempt(s)  {row['problem'] or ''}"
        )
    click.echo(f"{len(rows):,} reader(s)")


@traits.command()
@as_json
@click.pass_obj
def send(context: Context, *, as_json: bool) -> None:
    """Tell Engage now of all that is still to be told."""
    with context.pushing() as pusher:
        counts = pusher.send_due(every=True)
    click.echo(json_of(counts) if as_json else counted(counts))


COMMANDS = (traits,)
