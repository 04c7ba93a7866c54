"""Commands that change a subscription."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import click

from piano_actions.cli.asking import as_json, dry_run, json_of, key, tell, usage, user
from piano_actions.store import Request
from piano_actions.terms import all_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_actions.cli.asking import Context
    from piano_actions.outcome import Outcome


when_ambiguous = click.option(
    "--when-ambiguous", type=click.Choice(["refuse", "primary"]), help="Of several: none, or the primary one."
)


@click.command()
@user
@click.option("--subscription", help="Which one; without it the one that can be resumed is looked for.")
@when_ambiguous
@key
@dry_run
@as_json
@click.pass_obj
def resubscribe(
    context: Context,
    user: str,
    subscription: str | None,
    when_ambiguous: str | None,
    key: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Have a subscription that is about to end renew by itself again."""
    found = _asked(
        context, "resubscribe", user, key, {"subscription_id": subscription}, dry_run=dry_run, choice=when_ambiguous
    )
    tell(found, as_json=as_json)


@click.group()
def upgrade() -> None:
    """Change the term of a subscription; a downgrade is the same thing."""


@upgrade.command()
@click.option("--from", "from_term", help="Only those that lead away from this term: id or name.")
@as_json
@click.pass_obj
def options(context: Context, from_term: str | None, *, as_json: bool) -> None:
    """List the changes that the publisher has set up, with price, timing, and what they mean for the reader."""
    with context.piano() as piano:
        found = [one.as_dict() for one in all_options(piano, from_term=from_term)]
    if as_json:
        click.echo(json_of(found))
        return
    for one in found:
        click.echo(f"{one['option_id']}: {one['from_term_name']} → {one['to_term_name']}")
        click.echo(f"    {one['seen']}")
    click.echo(f"{len(found):,} change option(s)")
    if not found and from_term:
        click.echo(
            "Next: no option leads away from a term of this id or name; without --from all are listed.", err=True
        )


@upgrade.command()
@user
@click.option("--to", "to_term", required=True, help="The term: id or name; or the id of an option.")
@click.option("--from", "from_term", help="The term to leave: id or name.")
@click.option("--subscription", help="Which one; without it the one from which an option leads there is looked for.")
@when_ambiguous
@key
@dry_run
@as_json
@click.pass_obj
def do(  # noqa: PLR0913 - one argument an option
    context: Context,
    user: str,
    to_term: str,
    from_term: str | None,
    subscription: str | None,
    when_ambiguous: str | None,
    key: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change the term by the option that leads there."""
    params = {"to_term": to_term, "from_term": from_term, "subscription_id": subscription}
    tell(_asked(context, "upgrade", user, key, params, dry_run=dry_run, choice=when_ambiguous), as_json=as_json)


@upgrade.command()
@user
@click.option("--subscription", help="Of which; without it the one with a change that waits.")
@key
@dry_run
@as_json
@click.pass_obj
def cancel(
    context: Context, user: str, subscription: str | None, key: str | None, *, dry_run: bool, as_json: bool
) -> None:
    """Withdraw a change that waits for its day."""
    found = _asked(context, "upgrade_cancel", user, key, {"subscription_id": subscription}, dry_run=dry_run)
    tell(found, as_json=as_json)


def _asked(
    context: Context,
    action: str,
    user: str,
    key: str | None,
    params: Mapping[str, str | None],
    *,
    dry_run: bool,
    choice: str | None = None,
) -> Outcome:
    """Have an action done, asked for with those of *params* that are given."""
    given = {name: value for name, value in params.items() if value}
    with usage(), context.desk(when_ambiguous=choice) as desk:
        return desk.run(Request(action, user, given, key or uuid.uuid4().hex), dry_run=dry_run)


COMMANDS = (resubscribe, upgrade)
