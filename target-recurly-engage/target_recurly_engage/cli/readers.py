"""Single readers: why one has his traits, whom Engage rejects, which values cannot be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.duck import name, text

from target_recurly_engage.cli.asking import as_json, json_of, now_of, open_ledger
from target_recurly_engage.contract import contract_of
from target_recurly_engage.destinations import at_destination
from target_recurly_engage.explain import explain
from target_recurly_engage.explain import words_of as explain_words
from target_recurly_engage.problems import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.ledger import Ledger


@click.command("explain")
@click.option("--user", required=True, help="The reader.")
@click.option("--trait", help="Tell how one trait came about.")
@as_json
@click.pass_obj
def explain_user(config: Mapping[str, Any], user: str, trait: str | None, as_json: bool) -> None:  # noqa: FBT001 - click
    """Say why a reader has his traits: rows, rule, values, and what was sent. Nothing is sent."""
    with open_ledger(config) as ledger:
        contract = contract_of(config).with_kinds(ledger.kinds())
        found = explain(ledger, contract, now_of(config), user)
    if trait is not None and trait not in found["traits"]:
        msg = f"no trait {trait!r}{suggestion(trait, found['traits'])}"
        raise click.UsageError(msg)
    click.echo(json_of(found) if as_json else "\n".join(explain_words(found, trait)))


@click.group()
def rejects() -> None:
    """Readers whom Engage rejects."""


@rejects.command("list")
@as_json
@click.pass_obj
def list_rejects(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """List them with reason, attempts and the time of the next one."""
    columns = ("user_id", "status", "reason", "attempts", "first_at", "last_at", "next_at")
    with open_ledger(config) as ledger:
        _list(ledger, "rejects", columns, as_json=as_json)


def _chosen(config: Mapping[str, Any], users: tuple[str, ...], change: str, *, every: bool) -> int:
    """Change reject rows, of *users* or of everybody, and answer how many."""
    if bool(users) == every:
        msg = "name readers, or say --all"
        raise click.UsageError(msg)
    chosen = "true" if every else f"user_id IN ({', '.join(map(text, users))})"
    with open_ledger(config, changes=True) as ledger, at_destination(ledger, config):
        found = ledger.count(f"SELECT count(*) FROM rejects WHERE {chosen}")
        ledger.connection.execute(f"UPDATE rejects SET {change} WHERE {chosen}")
    return found


@rejects.command()
@click.argument("users", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.pass_obj
def retry(config: Mapping[str, Any], users: tuple[str, ...], every: bool) -> None:  # noqa: FBT001 - as click calls it
    """Let the next run try USERS again, however long they were to wait."""
    click.echo(f"{_chosen(config, users, 'next_at = last_at', every=every):,} will be tried again by the next run")


@rejects.command()
@click.argument("users", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.pass_obj
def drop(config: Mapping[str, Any], users: tuple[str, ...], every: bool) -> None:  # noqa: FBT001 - as click calls it
    """Give USERS up: they are not tried again before something of them changes."""
    found = _chosen(config, users, "next_at = 'infinity'", every=every)
    click.echo(f"{found:,} will be tried again when something of them changes")


@click.command()
@as_json
@click.pass_obj
def invalid(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """List values that cannot be sent, by our own contract, and so count as absent."""
    columns = ("user_id", "trait", "reason", "first_at", "last_at")
    with open_ledger(config) as ledger:
        _list(ledger, "invalid", columns, as_json=as_json)


def _list(ledger: Ledger, table: str, columns: tuple[str, ...], *, as_json: bool) -> None:
    query = ", ".join(f"{name(column)}::VARCHAR" for column in columns)
    rows = ledger.connection.execute(f"SELECT {query} FROM {table} ORDER BY last_at, user_id").fetchall()
    if as_json:
        click.echo(json_of([dict(zip(columns, row, strict=True)) for row in rows]))
        return
    for row in rows:
        click.echo("  ".join(row))
    click.echo(f"{len(rows):,} {table.removesuffix('s') + 'ed' if table == 'rejects' else table}")


COMMANDS = (explain_user, rejects, invalid)
