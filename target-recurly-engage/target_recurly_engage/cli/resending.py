"""Sending again what a destination lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from target_recurly_engage.cli.asking import as_json, json_of, open_ledger
from target_recurly_engage.destinations import at_destination
from target_recurly_engage.resend import Choice, resend, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def _moment(_context: click.Context, _parameter: click.Parameter, given: str | None) -> datetime | None:
    """Read a moment; without an offset it is UTC."""
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as e:
        msg = f"{given!r} is not a date or a moment in ISO 8601, such as 2026-03-28 or 2026-03-28T06:00:00+01:00"
        raise click.BadParameter(msg) from e
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(tz=UTC):
        msg = f"{given} is still to come"
        raise click.BadParameter(msg)
    return moment


@click.command("resend")
@click.option("--all", "every", is_flag=True, help="All users of the destination.")
@click.option("--user", "users", multiple=True, metavar="ID", help="This user; may be repeated.")
@click.option("--delivery", metavar="ID", help="The users of a delivery: its id, or the name of its file.")
@click.option("--since", callback=_moment, metavar="MOMENT", help="All to whom something was delivered since (UTC).")
@click.option("--yes", is_flag=True, help="Do it; without, users are only counted.")
@as_json
@click.pass_obj
def resend_users(
    config: Mapping[str, Any],
    *,
    every: bool,
    users: tuple[str, ...],
    delivery: str | None,
    since: datetime | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Have the next run send users in full again: what was lost, refused in Pulse or deleted. Counts first."""
    if [every, bool(users), delivery is not None, since is not None].count(True) != 1:
        msg = "say which users: one of --all, --user, --delivery and --since"
        raise click.UsageError(msg)
    choice = Choice(every=every, users=users, delivery=delivery, since=since)
    with open_ledger(config, changes=yes) as ledger, at_destination(ledger, config):
        found = resend(ledger, config, choice)
    click.echo(json_of(found | {"done": yes}) if as_json else "\n".join(words_of(found, done=yes)))


COMMANDS = (resend_users,)
