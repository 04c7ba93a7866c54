"""Commands about Piano's webhooks: what came, what could not be used, and working on it again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click
from piano_engage_common.stops import ConfigRefused

from piano_actions.cli.asking import EXIT_REFUSED, LOGGER, as_json, counted, json_of
from piano_actions.cli.notes import moment_of
from piano_actions.inbox import DAY, Inbox
from piano_actions.pushes import Told
from piano_actions.settings import client_of
from piano_actions.tables import IGNORED, LEFT, WAITING
from piano_actions.webhooks import reader_of

if TYPE_CHECKING:
    from piano_actions.cli.asking import Context
    from piano_actions.store import Store
    from piano_actions.webhooks import Reader

STATES: Final = (WAITING, *(str(told) for told in Told if told is not Told.LATER), IGNORED, LEFT)
MOMENTS: Final = ("received_at", "last_at", "worked_at")
FOUND: Final = ("replayed", "taken", "still_poison")
"""Counts of events, as against readers."""
SHOWN: Final = 12
"""Letters of an id."""


@click.group()
def webhooks() -> None:
    """What Piano sent to the service."""


@webhooks.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--type", "kind", help="Only events of one type.")
@click.option("--user", help="Only those of one reader.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@as_json
@click.pass_obj
def list_(
    context: Context, state: str | None, kind: str | None, user: str | None, limit: int, *, as_json: bool
) -> None:
    """List events, the newest first; readers stand there as salted hashes."""
    with context.store() as store:
        rows = _told(_inbox(context, store).events(limit=limit, state=state, kind=kind, user_id=user))
    if as_json:
        click.echo(json_of(rows))
        return
    for row in rows:
        reader = f"reader {row['reader'][:SHOWN]}" if row["reader"] else row["word"] or ""
        click.echo(
            f"{row['last_at']}  {row['id'][:SHOWN]}  {row['type']}/{row['event'] or ''}  {reader}  {row['state']}"
            f"{_times(row)}"
        )
    click.echo(f"{len(rows):,} event(s)")


@webhooks.command()
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@as_json
@click.pass_obj
def quarantine(context: Context, limit: int, *, as_json: bool) -> None:
    """List what could not be used, and why."""
    with context.store() as store:
        rows = _told(_inbox(context, store).quarantined(limit=limit))
    if as_json:
        click.echo(json_of(rows))
        return
    for row in rows:
        click.echo(f"{row['last_at']}  {row['id'][:SHOWN]}  {row['reason']}  {row['size']:,} letters{_times(row)}")
    click.echo(f"{len(rows):,} in quarantine")


@webhooks.command()
@click.argument("ids", nargs=-1)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="All events of so many days.")
@click.option("--quarantine", "poison", is_flag=True, help="What is in quarantine, by the settings as they are now.")
@as_json
@click.pass_obj
def replay(context: Context, ids: tuple[str, ...], days: float | None, *, poison: bool, as_json: bool) -> None:
    """Read the readers of events from Piano again, and tell Engage what changed; IDS may be shortened."""
    if not (ids or days or poison):
        msg = "name events by their ids, or say --days, or --quarantine"
        raise click.UsageError(msg)
    if days and poison:
        msg = "--days does not go with --quarantine"
        raise click.UsageError(msg)
    counts: dict[str, int] = {}
    with context.store() as store:
        inbox = _inbox(context, store)
        if poison:
            counts = inbox.replay_quarantine(_reader(context), ids)
        elif not context.tells:
            msg = "push: is off, or the target has no app_id and api_key; the nightly run tells Engage then."
            raise ConfigRefused(msg)
        else:
            counts = {"replayed": inbox.replay(ids, since=time.time() - days * DAY if days else 0.0)}
        if context.tells:
            pusher = context.pusher(client_of(context.settings, LOGGER), store)
            try:
                counts |= pusher.send_due(every=poison)
            finally:
                pusher.close()
    click.echo(json_of(counts) if as_json else counted(counts))
    if ids and not sum(counts.get(what, 0) for what in FOUND):
        click.echo("Next: no event has an id that begins so; `piano-actions webhooks list` shows them.", err=True)
        sys.exit(EXIT_REFUSED)


@webhooks.command()
@as_json
@click.pass_obj
def sweep(context: Context, *, as_json: bool) -> None:
    """Forget what is older than webhook_days, but nothing that waits; the service does so by itself."""
    with context.store() as store:
        inbox = _inbox(context, store)
        inbox.sweep()
        counts = inbox.counts()
    click.echo(json_of(counts) if as_json else ", ".join(f"{name} {count}" for name, count in counts.items()))


def _inbox(context: Context, store: Store) -> Inbox:
    return Inbox(store, tells=context.tells, days=context.settings.webhook_days)


def _reader(context: Context) -> Reader:
    reader = reader_of(context.settings)
    if reader is None:
        msg = "private_key: is needed. Piano shows it beside the id of the application."
        raise ConfigRefused(msg)
    return reader


def _told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write moments for a person."""
    return [
        {name: moment_of(value) if name in MOMENTS and value else value for name, value in row.items()} for row in rows
    ]


def _times(row: dict[str, Any]) -> str:
    return f", {row['times']:,} times" if row["times"] > 1 else ""


COMMANDS = (webhooks,)
