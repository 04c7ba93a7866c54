"""``recurly-engage``: what a person asks of the ledger, with nothing sent.

The settings are the target's, from a file or from the environment, so the answers are those that a run would act on.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from piano_engage_common.duck import name, text
from piano_engage_common.stops import ConfigRefused, NoInput, exits
from singer_sdk.exceptions import ConfigValidationError

from target_recurly_engage.delivery.ingest import IngestDelivery
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.plan import make_plan
from target_recurly_engage.run import wording_of
from target_recurly_engage.target import TargetRecurlyEngage
from target_recurly_engage.traits import NAMES, TRAITS, primary_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.plan import Plan
    from target_recurly_engage.traits import Wording

LOGGER = logging.getLogger("recurly-engage")
SAMPLE: Final = 10


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
    wording = wording_of(config)
    now = str(config.get("as_of") or datetime.now(tz=UTC).isoformat())
    with _ledger(config) as ledger, ledger.trial():
        made = make_plan(ledger, wording, now=now, delivery_id="none")
        answer = _of_user(ledger, wording, now, user) if user is not None else _of_all(ledger, config, made)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_words_of_user(answer) if user is not None else _words_of_all(answer)))


def _of_all(ledger: Ledger, config: Mapping[str, Any], made: Plan) -> dict[str, Any]:
    rate = float(config["requests_per_second"])
    by_requests = config["delivery"] == IngestDelivery.channel
    traits = {trait: asdict(counts) for trait, counts in made.traits.items() if any(asdict(counts).values())}
    return {
        "users": {
            "new": made.new, "changed": made.changed - made.gone, "cleared": made.gone,
            "unchanged": made.users - made.size,
        },
        "traits": traits,
        "sample": [_changes(ledger, one) for one in _sample(ledger)],
        "delivery": config["delivery"],
        "seconds_at_least": round(made.size / rate, 1) if by_requests and rate else None,
    }  # fmt: skip


def _sample(ledger: Ledger) -> list[str]:
    rows = ledger.connection.execute(f"SELECT user_id FROM plan ORDER BY user_id LIMIT {SAMPLE}").fetchall()
    return [user_id for (user_id,) in rows]


def _changes(ledger: Ledger, user_id: str) -> dict[str, Any]:
    """Give what is to be sent of a reader, and what Engage was told before."""
    columns = ", ".join(map(name, NAMES))
    ((*planned,),) = ledger.connection.execute(f"SELECT {columns} FROM plan WHERE user_id = ?", [user_id]).fetchall()
    known = ledger.connection.execute(f"SELECT {columns} FROM delivered WHERE user_id = ?", [user_id]).fetchall()
    told = known[0] if known else [None] * len(NAMES)
    return {
        "user_id": user_id,
        "changes": {
            trait: {"from": before, "to": after}
            for trait, before, after in zip(NAMES, told, planned, strict=True)
            if before != after
        },
    }


def _of_user(ledger: Ledger, wording: Wording, now: str, user_id: str) -> dict[str, Any]:
    execute = ledger.connection.execute
    written = ", ".join(f"{wording.written(trait)} AS {name(trait.name)}" for trait in TRAITS)
    ranked = f"SELECT *, {primary_order(now)} AS place FROM subscriptions WHERE user_id = ?"
    rows = execute(f"SELECT {written} FROM ({ranked}) ORDER BY place", [user_id]).fetchall()
    told = execute("SELECT trait, value FROM delivered_traits WHERE user_id = ?", [user_id]).fetchall()
    when = execute(
        "SELECT acknowledged_at::VARCHAR FROM delivered JOIN deliveries USING (delivery_id) WHERE user_id = ?",
        [user_id],
    ).fetchall()
    rejects = execute(
        "SELECT status, reason, attempts, next_at::VARCHAR FROM rejects WHERE user_id = ?", [user_id]
    ).fetchall()
    planned = execute("SELECT count(*) FROM plan WHERE user_id = ?", [user_id]).fetchall()
    return {
        "user_id": user_id,
        "subscriptions": [dict(zip(NAMES, row, strict=True)) for row in rows],
        "told": dict(told),
        "told_at": when[0][0] if when else None,
        "to_send": _changes(ledger, user_id)["changes"] if planned[0][0] else {},
        "rejected": dict(zip(("status", "reason", "attempts", "next_at"), rejects[0], strict=True))
        if rejects
        else None,
    }


def _words_of_all(answer: dict[str, Any]) -> Iterator[str]:
    users = answer["users"]
    yield (
        f"{users['new']:,} new, {users['changed']:,} changed, {users['cleared']:,} cleared, "
        f"{users['unchanged']:,} unchanged; delivery: {answer['delivery']}"
    )
    if answer["seconds_at_least"]:
        yield f"at least {answer['seconds_at_least']:,} s at the rate that is set"
    for trait, counts in answer["traits"].items():
        yield f"  {trait:32} {counts['new']:>9,} new {counts['changed']:>9,} changed {counts['cleared']:>9,} cleared"
    for one in answer["sample"]:
        yield f"  {one['user_id']}: " + ", ".join(_arrows(one["changes"]))


def _arrows(changes: dict[str, dict[str, str | None]]) -> Iterator[str]:
    for trait, change in changes.items():
        yield f"{trait} {change['from'] or '(new)'} → {change['to']}"


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
    yield from (f"  to send: {line}" for line in _arrows(answer["to_send"]))
    if answer["rejected"]:
        yield "  rejected with {status} {reason}, {attempts} attempt(s), next one after {next_at}".format(
            **answer["rejected"]
        )


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
        query = ", ".join(f"{name(column)}::VARCHAR" for column in columns)
        rows = ledger.connection.execute(f"SELECT {query} FROM rejects ORDER BY last_at, user_id").fetchall()
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo("  ".join(row))
    click.echo(f"{len(rows):,} rejected")


@rejects.command()
@click.argument("users", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.pass_obj
def retry(config: Mapping[str, Any], users: tuple[str, ...], every: bool) -> None:  # noqa: FBT001 - as click calls it
    """Let the next run try USERS again, however long they were to wait."""
    if bool(users) == every:
        msg = "name readers, or say --all"
        raise click.UsageError(msg)
    chosen = "true" if every else f"user_id IN ({', '.join(map(text, users))})"
    with _ledger(config) as ledger:
        found = ledger.count(f"SELECT count(*) FROM rejects WHERE {chosen}")
        ledger.connection.execute(f"UPDATE rejects SET next_at = last_at WHERE {chosen}")
    click.echo(f"{found:,} will be tried again by the next run")
