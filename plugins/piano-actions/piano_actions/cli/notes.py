"""Commands about what was done: the audit, and what a crash left."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from piano_actions.cli.asking import as_json, json_of
from piano_actions.desk import NAMES

if TYPE_CHECKING:
    from piano_actions.cli.asking import Context


@click.command()
@click.option("--action", type=click.Choice(NAMES), help="Only these.")
@click.option("--user", help="Only those of one reader.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@as_json
@click.pass_obj
def audit(context: Context, action: str | None, user: str | None, limit: int, *, as_json: bool) -> None:
    """List what was done, the newest first; readers stand there as salted hashes."""
    with context.store() as store:
        rows = store.audit(limit=limit, action=action, user_id=user)
    for row in rows:
        row["created_at"] = moment_of(row["created_at"])
        row["finished_at"] = moment_of(row["finished_at"]) if row["finished_at"] else None
    if as_json:
        click.echo(json_of(rows))
        return
    for row in rows:
        ended = row["outcome"] or {}
        click.echo(
            f"{row['created_at']}  {row['action']}  reader {row['reader'][:12]}  "
            f"{ended.get('status', row['state'])}  {ended.get('reason', '')}"
        )
    click.echo(f"{len(rows):,} action(s)")


@click.command()
@as_json
@click.pass_obj
def recover(context: Context, *, as_json: bool) -> None:
    """Bring to an end what a crash left, or what Piano did not answer; the service does so by itself."""
    with context.desk() as desk:
        done = desk.recover()
    if as_json:
        click.echo(json_of([one.as_dict() for one in done]))
        return
    for one in done:
        click.echo(f"{one.action}: {one.status}, {one.reason}")
    click.echo(f"{len(done):,} action(s) brought to an end")


def moment_of(seconds: float) -> str:
    """Write epoch seconds for a person."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


COMMANDS = (audit, recover)
