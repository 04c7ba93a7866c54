"""Commands about what Engage is told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from piano_actions.cli.asking import as_json, dry_run, json_of, user
from piano_actions.cli.notes import moment_of

if TYPE_CHECKING:
    from piano_actions.cli.asking import Context


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
            answer: dict[str, object] = {"status": "would", "traits": pusher.preview(user).properties}
        else:
            pusher.store.want_push(user)
            answer = {"status": str(pusher.push(user))}
    click.echo(json_of(answer) if as_json else "  ".join(f"{name}: {value}" for name, value in answer.items()))


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
    click.echo(json_of(counts) if as_json else ", ".join(f"{count} {what}" for what, count in counts.items()))


COMMANDS = (traits,)
