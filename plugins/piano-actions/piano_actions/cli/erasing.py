"""Erasing a reader from the actions' own notes, and letting him in again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from target_recurly_engage.erase import write_receipt

from piano_actions.cli.asking import as_json, json_of, user
from piano_actions.erasing import allow, erase
from piano_actions.messages import messages_of
from piano_actions.traits import LedgerBusy, look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_actions.cli.asking import Context


@click.command("erase")
@user
@click.option("--allow", "allowed", is_flag=True, help="Let a reader who was erased in again.")
@as_json
@click.pass_obj
def erase_user(context: Context, user: str, *, allowed: bool, as_json: bool) -> None:
    """Take what names a reader out of the actions' own notes, and keep him out; `recurly-engage erase` comes first."""
    with context.store() as store:
        if allowed:
            allow(store, user)
            said = "let in again: what Piano says of him is told from now on"
            click.echo(json_of({"status": "let_in"}) if as_json else said)
            return
        key = context.settings.private_key
        receipt = erase(store, user, key=key.get_secret_value() if key else None)
        receipt |= _take_messages(context, user)
        path = write_receipt(Path(context.target["runs_path"]), receipt)
    click.echo(json_of(receipt) if as_json else "\n".join(_words(receipt, path)))


def _take_messages(context: Context, user: str) -> dict[str, int]:
    """Remove what was left for the next run about a reader, once the ledger does not need it any more."""
    folder = context.target.get("handover_path")
    paths = messages_of(Path(folder), user) if folder else []
    try:
        erased = look_up(Path(context.target["ledger"]), context.contract, user).is_erased
    except LedgerBusy:
        erased = False
    if not erased:
        return {"messages": 0, "messages_left": len(paths)}
    for path in paths:
        path.unlink(missing_ok=True)
    return {"messages": len(paths), "messages_left": 0}


def _words(receipt: dict[str, Any], path: Path) -> Iterator[str]:
    yield "erased, and kept out from now on"
    rows = ", ".join(f"{table} {count}" for table, count in receipt["rows"].items())
    yield f"rows that the notes had of him: {rows or 'none'}"
    if receipt["messages_left"]:
        yield (
            f"still names him: {receipt['messages_left']} message(s) in handover_path about what Engage was told. "
            "`recurly-engage erase` needs them, so run it, and then this once more"
        )
    if receipt["quarantine_unread"]:
        yield f"{receipt['quarantine_unread']} event(s) in quarantine cannot be read; they go after webhook_days"
    yield f"receipt: {path}"


COMMANDS = (erase_user,)
