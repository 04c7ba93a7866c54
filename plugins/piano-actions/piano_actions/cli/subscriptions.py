"""Commands that change a subscription."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import click

from piano_actions.cli.asking import as_json, dry_run, key, tell, usage, user
from piano_actions.store import Request

if TYPE_CHECKING:
    from piano_actions.cli.asking import Context


@click.command()
@user
@click.option("--subscription", help="Which one; without it the one that can be resumed is looked for.")
@click.option(
    "--when-ambiguous", type=click.Choice(["refuse", "primary"]), help="Of several: none, or the primary one."
)
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
    params = {"subscription_id": subscription} if subscription else {}
    request = Request("resubscribe", user, params, key or uuid.uuid4().hex)
    with usage(), context.desk(when_ambiguous=when_ambiguous) as desk:
        found = desk.run(request, dry_run=dry_run)
    tell(found, as_json=as_json)


COMMANDS = (resubscribe,)
