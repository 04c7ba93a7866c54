"""``recurly-engage``: what a person asks of the ledger, with nothing sent.

The settings are the target's, from a file or from the environment, so the answers are those that a run would act on.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from piano_engage_common.duck import name, text
from piano_engage_common.stops import ConfigRefused, NoInput, exits
from singer_sdk.exceptions import ConfigValidationError

from target_recurly_engage.contract import contract_of
from target_recurly_engage.explain import explain
from target_recurly_engage.explain import words_of as explain_words
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.manifest import as_csv, as_markdown, as_table, manifest
from target_recurly_engage.plan import make_plan
from target_recurly_engage.preview import preview
from target_recurly_engage.preview import words_of as preview_words
from target_recurly_engage.problems import suggestion
from target_recurly_engage.pulse import pulse
from target_recurly_engage.pulse import words_of as pulse_words
from target_recurly_engage.ready import BY_NAME as READY
from target_recurly_engage.run import ageing_of
from target_recurly_engage.shown import arrows, changes_of, shown, words_of
from target_recurly_engage.target import TargetRecurlyEngage
from target_recurly_engage.traits import NAMES, TRAITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.contract import Contract

LOGGER = logging.getLogger("recurly-engage")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "configs", multiple=True, default=("ENV",), show_default=True, help="File of settings, or ENV."
)
@click.version_option(package_name="target-recurly-engage")
@click.pass_context
def main(context: click.Context, configs: tuple[str, ...]) -> None:
    """Ask the ledger of target-recurly-engage."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    with exits(LOGGER):
        context.obj = _settings(configs)


def _settings(configs: tuple[str, ...]) -> Mapping[str, Any]:
    given: dict[str, Any] = {}
    for path in (Path(one) for one in configs if one != "ENV"):
        try:
            given |= json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            msg = f"--config {path}: cannot be read as JSON ({e})."
            raise ConfigRefused(msg) from e
    try:
        return TargetRecurlyEngage(config=given, parse_env_config="ENV" in configs).config
    except ConfigValidationError as e:
        raise ConfigRefused("; ".join(e.errors)) from e


@contextmanager
def _ledger(config: Mapping[str, Any]) -> Iterator[Ledger]:
    path = Path(config["ledger"])
    with exits(LOGGER):
        if not path.is_file():
            msg = f"ledger: there is none at {path} yet. The first run of the target makes it."
            raise NoInput(msg)
        with closing(Ledger(path, memory_limit=config["memory_limit"])) as ledger:
            yield ledger


as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@main.command()
@click.option("--user", help="Explain one reader.")
@as_json
@click.pass_obj
def plan(config: Mapping[str, Any], user: str | None, as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Show what a run would send, from what the ledger holds of Piano. Nothing is sent."""
    clock = datetime.now(tz=UTC).isoformat()
    now = str(config.get("as_of") or clock)
    with _ledger(config) as ledger, ledger.trial():
        contract = contract_of(config).with_kinds(ledger.kinds())
        made = make_plan(ledger, contract, now=now, clock=clock, delivery_id="none", ageing=ageing_of(config))
        of_user = None if user is None else _of_user(ledger, contract, now, user)
        answer = of_user or shown(ledger, contract, config, made)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_words_of_user(answer) if user is not None else words_of(answer)))


def _of_user(ledger: Ledger, contract: Contract, now: str, user_id: str) -> dict[str, Any]:
    execute = ledger.connection.execute
    written = ", ".join(f"{contract.wording.written(one, name(one.name))} AS {name(one.name)}" for one in TRAITS)
    rule = contract.primary
    judged = f"SELECT *, {text(now)}::TIMESTAMPTZ AS moment FROM subscriptions WHERE user_id = ?"
    ranked = f"SELECT *, {rule.sql} AS place FROM ({judged}) WHERE {rule.counts}"
    rows = execute(f"SELECT {written} FROM ({ranked}) ORDER BY place", [user_id]).fetchall()
    told = execute("SELECT trait, value FROM delivered_traits WHERE user_id = ?", [user_id]).fetchall()
    when = execute(
        "SELECT acknowledged_at::VARCHAR FROM delivered JOIN deliveries USING (delivery_id) WHERE user_id = ?",
        [user_id],
    ).fetchall()
    rejects = execute(
        "SELECT status, reason, attempts, next_at::VARCHAR FROM rejects WHERE user_id = ?", [user_id]
    ).fetchall()
    invalid = execute("SELECT trait, reason FROM invalid WHERE user_id = ?", [user_id]).fetchall()
    planned = execute("SELECT count(*) FROM plan WHERE user_id = ?", [user_id]).fetchall()
    return {
        "user_id": user_id,
        "subscriptions": [dict(zip(NAMES, row, strict=True)) for row in rows],
        "told": dict(told),
        "told_at": when[0][0] if when else None,
        "to_send": changes_of(ledger, contract, user_id)["changes"] if planned[0][0] else {},
        "invalid": dict(invalid),
        "rejected": dict(zip(("status", "reason", "attempts", "next_at"), rejects[0], strict=True))
        if rejects
        else None,
    }


def _words_of_user(answer: dict[str, Any]) -> Iterator[str]:
    if not answer["subscriptions"] and not answer["told"]:
        yield f"{answer['user_id']}: the ledger knows no such reader"
        return
    yield f"{answer['user_id']}: {len(answer['subscriptions'])} subscription(s), the first is the primary one"
    for row in answer["subscriptions"]:
        yield "  " + ", ".join(
            row[trait] for trait in ("subscription_id", "subscription_status", "term_name", "access_expiration_date")
        )
    yield f"told on {answer['told_at']}" if answer["told"] else "Engage was told nothing"
    yield from (f"  to send: {line}" for line in arrows(answer["to_send"]))
    for trait, reason in answer["invalid"].items():
        yield f"  {trait} is {reason}, cannot be sent, and counts as absent"
    if answer["rejected"]:
        yield "  rejected with {status} {reason}, {attempts} attempt(s), next one after {next_at}".format(
            **answer["rejected"]
        )


@main.command("explain")
@click.option("--user", required=True, help="The reader.")
@click.option("--trait", help="Tell how one trait came about.")
@as_json
@click.pass_obj
def explain_user(config: Mapping[str, Any], user: str, trait: str | None, as_json: bool) -> None:  # noqa: FBT001 - click
    """Say why a reader has his traits: rows, rule, values, and what was sent. Nothing is sent."""
    with _ledger(config) as ledger:
        contract = contract_of(config).with_kinds(ledger.kinds())
        found = explain(ledger, contract, _now(config), user)
    if trait is not None and trait not in found["traits"]:
        msg = f"no trait {trait!r}{suggestion(trait, found['traits'])}"
        raise click.UsageError(msg)
    click.echo(_json(found) if as_json else "\n".join(explain_words(found, trait)))


@main.command()
@click.option("--format", "form", type=click.Choice(["table", "csv", "markdown", "json"]), default="table")
@click.pass_obj
def traits(config: Mapping[str, Any], form: str) -> None:
    """List the traits that are sent, and what an administrator must still do in Pulse."""
    contract = contract_of(config)
    if Path(config["ledger"]).is_file():
        with _ledger(config) as ledger:
            rows = manifest(ledger, contract.with_kinds(ledger.kinds()))
    else:
        rows = manifest(None, contract)
    written = {"csv": as_csv, "markdown": as_markdown, "json": _json}
    click.echo(written[form](rows) if form in written else "\n".join(as_table(rows)))


@main.group()
def segments() -> None:
    """Audiences, as the settings define them."""


@segments.command("preview")
@as_json
@click.pass_obj
def preview_segments(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Count who is in each, by what the ledger holds of Piano. Nothing is sent."""
    with _ledger(config) as ledger:
        found = preview(ledger, contract_of(config).with_kinds(ledger.kinds()), _now(config))
    click.echo(_json(found) if as_json else "\n".join(preview_words(found)))


@segments.command("pulse")
@as_json
@click.pass_obj
def pulse_rows(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Print the rows to type into Pulse, and where Engage would understand them otherwise."""
    with exits(LOGGER):
        found = pulse(contract_of(config))
    click.echo(_json(found) if as_json else "\n".join(pulse_words(found)))


@segments.command("ready")
def ready_segments() -> None:
    """Print the ready-made segments, to be copied and changed."""
    click.echo(yaml.safe_dump(list(READY.values()), sort_keys=False, allow_unicode=True, width=100), nl=False)


def _now(config: Mapping[str, Any]) -> str:
    return str(config.get("as_of") or datetime.now(tz=UTC).isoformat())


def _json(answer: object) -> str:
    return json.dumps(answer, indent=2, ensure_ascii=False)


@main.group()
def rejects() -> None:
    """Readers whom Engage rejects."""


@rejects.command("list")
@as_json
@click.pass_obj
def list_rejects(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """List them with reason, attempts and the time of the next one."""
    columns = ("user_id", "status", "reason", "attempts", "first_at", "last_at", "next_at")
    with _ledger(config) as ledger:
        _list(ledger, "rejects", columns, as_json=as_json)


def _chosen(config: Mapping[str, Any], users: tuple[str, ...], change: str, *, every: bool) -> int:
    """Change reject rows, of *users* or of everybody, and answer how many."""
    if bool(users) == every:
        msg = "name readers, or say --all"
        raise click.UsageError(msg)
    chosen = "true" if every else f"user_id IN ({', '.join(map(text, users))})"
    with _ledger(config) as ledger:
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


@main.command()
@as_json
@click.pass_obj
def invalid(config: Mapping[str, Any], as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """List values that cannot be sent, by our own contract, and so count as absent."""
    columns = ("user_id", "trait", "reason", "first_at", "last_at")
    with _ledger(config) as ledger:
        _list(ledger, "invalid", columns, as_json=as_json)


def _list(ledger: Ledger, table: str, columns: tuple[str, ...], *, as_json: bool) -> None:
    query = ", ".join(f"{name(column)}::VARCHAR" for column in columns)
    rows = ledger.connection.execute(f"SELECT {query} FROM {table} ORDER BY last_at, user_id").fetchall()
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo("  ".join(row))
    click.echo(f"{len(rows):,} {table.removesuffix('s') + 'ed' if table == 'rejects' else table}")
