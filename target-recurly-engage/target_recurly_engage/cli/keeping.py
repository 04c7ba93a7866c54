"""The ledger itself: what is in it, backup, restore, move, compact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.stops import exits

from target_recurly_engage import copies
from target_recurly_engage.cli.asking import LOGGER, as_json, json_of, open_ledger
from target_recurly_engage.destinations import known
from target_recurly_engage.restore import restore
from target_recurly_engage.shared.place import is_shared
from target_recurly_engage.shared.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.ledger import Ledger

_LAST_RUN = """
    SELECT run_id, status, started_at::VARCHAR, finished_at::VARCHAR FROM runs ORDER BY started_at DESC LIMIT 1
"""


@click.group("ledger")
def ledger_group() -> None:
    """The ledger: what is in it, backup, restore, move, compact."""


@ledger_group.command()
@as_json
@click.pass_obj
def show(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Show where the ledger is, how large, who has it, and what is in it."""
    with open_ledger(config, as_it_is=True) as ledger:
        answer = _shown(config, ledger)
    click.echo(json_of(answer) if as_json else "\n".join(_words(answer)))


def _shown(config: Mapping[str, Any], ledger: Ledger) -> dict[str, Any]:
    found = ledger.connection.execute(_LAST_RUN).fetchall()
    names = ("run_id", "status", "started_at", "finished_at")
    return {
        "ledger": config["ledger"],
        "bytes": ledger.path.stat().st_size,
        "tables_version": ledger.count("SELECT version FROM ledger"),
        "rows": {table: count for table, count in copies.counts_of(ledger.connection).items() if count},
        "destinations": [
            {"name": one.addresses.name, "users": one.users, "is_current": one.is_current} for one in known(ledger)
        ],
        "last_run": dict(zip(names, found[0], strict=True)) if found else None,
        "shared": Snapshots(config, LOGGER).described() if is_shared(config["ledger"]) else None,
    }


def _words(answer: dict[str, Any]) -> Iterator[str]:
    yield f"{answer['ledger']}: {answer['bytes'] / 1e6:,.1f} MB, tables of version {answer['tables_version']}"
    rows = ", ".join(f"{table} {count:,}" for table, count in answer["rows"].items() if table != "ledger")
    yield f"rows: {rows or 'none'}"
    for one in answer["destinations"]:
        served = "current destination" if one["is_current"] else "earlier destination"
        yield f"{served}: {one['name']}, {one['users']:,} user(s)"
    if run := answer["last_run"]:
        yield f"last run: {run['run_id']}, {run['status']}, {run['finished_at'] or 'not ended'}"
    if shared := answer["shared"]:
        yield from _words_of_shared(shared)


def _words_of_shared(shared: dict[str, Any]) -> Iterator[str]:
    holder = shared["holder"]
    if holder is None:
        yield "held by nobody"
    else:
        yield f"held by {holder['who']}, since {holder['since']}, heard of {holder['heard_seconds_ago']:.0f} s ago"
    for one in shared["sending"]:
        yield f"run {one['run_id']} was sending {one['users']:,} reader(s) by {one['channel']}, and has not returned it"
    for one in shared["versions"]:
        yield f"version {one['name']}: {one['bytes'] / 1e6:,.1f} MB, {one['written_at']}, {one['by']}" + (
            ", which failed or was for show" if one.get("passing") else ""
        )


@ledger_group.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json
@click.pass_obj
def backup(config: Mapping[str, Any], file: Path, as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Write a copy of the ledger to FILE, which must not exist."""
    with exits(LOGGER):
        counts = copies.backup(config, file, LOGGER)
    size = file.stat().st_size
    if as_json:
        click.echo(json_of({"file": str(file), "bytes": size, "rows": counts}))
    else:
        click.echo(f"{file}: {size / 1e6:,.1f} MB, {_told(counts)}")


@ledger_group.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--version", "version", help="Of a ledger on S3: a version that `show` lists, instead of FILE.")
@click.option("--as-is", is_flag=True, help="Engage was told nothing since, so nobody need be told again.")
@as_json
@click.pass_obj
def restore_ledger(
    config: Mapping[str, Any],
    file: Path | None,
    version: str | None,
    as_is: bool,  # noqa: FBT001 - as click calls it
    as_json: bool,  # noqa: FBT001 - as click calls it
) -> None:
    """Put the backup FILE in the place of the ledger; the next run tells every reader in full."""
    if (file is None) == (version is None):
        msg = "name a file, or a version with --version"
        raise click.UsageError(msg)
    if version is not None and not is_shared(config["ledger"]):
        msg = "--version is for a ledger on S3"
        raise click.UsageError(msg)
    with exits(LOGGER):
        done = restore(config, file or str(version), LOGGER, as_is=as_is)
    if as_json:
        answer = {"subscriptions": done.subscriptions, "readers": done.readers, "told_again": done.again}
        click.echo(json_of(answer | {"aside": str(done.aside) if done.aside else None}))
        return
    click.echo(f"restored: {done.subscriptions:,} subscriptions, {done.readers:,} readers")
    if done.aside:
        click.echo(f"what was there before: {done.aside}")
    if done.again:
        click.echo("the next run tells all of them in full, for nobody knows what Engage was told since")
        click.echo("let it read a complete log: `meltano run --full-refresh …`, or clear the state of the tap before")


@ledger_group.command("move")
@click.argument("to")
@as_json
@click.pass_obj
def move_ledger(config: Mapping[str, Any], to: str, as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Move the ledger TO a path or s3://BUCKET/PATH; then set the setting `ledger` to that."""
    with exits(LOGGER):
        counts = copies.move(config, to, LOGGER)
    if as_json:
        click.echo(json_of({"ledger": to, "rows": counts}))
        return
    click.echo(f"moved to {to}: {_told(counts)}")
    click.echo(f"now set the setting `ledger` to {to}; runs that look for it at the old place are refused")


@ledger_group.command("compact")
@as_json
@click.pass_obj
def compact_ledger(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Make the ledger's file anew, without the room of what was deleted."""
    with exits(LOGGER):
        before, after = copies.compact(config, LOGGER)
    answer = {"bytes_before": before, "bytes_after": after}
    click.echo(json_of(answer) if as_json else f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")


def _told(counts: dict[str, int]) -> str:
    return f"{counts['subscriptions']:,} subscriptions, {counts['delivered']:,} readers, {counts['runs']:,} runs"


COMMANDS = (ledger_group,)
