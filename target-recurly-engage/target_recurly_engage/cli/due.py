"""What is due: the plan, and one reader of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.duck import name

from target_recurly_engage.cli.asking import as_json, json_of, open_ledger
from target_recurly_engage.contract import contract_of
from target_recurly_engage.handed_codes import unusable_codes
from target_recurly_engage.plan import ageing_of, make_plan
from target_recurly_engage.primary import judged
from target_recurly_engage.shown import arrows, changes_of, shown, words_of
from target_recurly_engage.traits import NAMES, TRAITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger


@click.command()
@click.option("--user", help="Explain one reader.")
@as_json
@click.pass_obj
def plan(config: Mapping[str, Any], user: str | None, as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Show what a run would send, from what the ledger holds of Piano. Nothing is sent."""
    clock = datetime.now(tz=UTC).isoformat()
    now = str(config.get("as_of") or clock)
    with open_ledger(config) as ledger, ledger.trial():
        contract = contract_of(config).with_kinds(ledger.kinds())
        made = make_plan(ledger, contract, now=now, clock=clock, delivery_id="none", ageing=ageing_of(config))
        of_user = None if user is None else _of_user(ledger, contract, now, user)
        codes = unusable_codes(ledger, contract, now)
        answer = of_user or shown(ledger, contract, config, made, warnings=codes)
    if as_json:
        click.echo(json_of(answer))
    else:
        click.echo("\n".join(_words_of_user(answer) if user is not None else words_of(answer)))


def _of_user(ledger: Ledger, contract: Contract, now: str, user_id: str) -> dict[str, Any]:
    execute = ledger.connection.execute
    wording, rule = contract.wording, contract.primary
    cells = ", ".join(wording.written(one, name(one.name)) for one in TRAITS)
    ranked = f"FROM ({judged(now)}) WHERE user_id = ? AND {rule.counts} ORDER BY {rule.sql}"
    rows = execute(f"SELECT {cells} {ranked}", [user_id]).fetchall()
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
    yield f"last delivered by a run on {answer['told_at']}" if answer["told"] else "nothing was delivered yet"
    yield from (f"  to send: {line}" for line in arrows(answer["to_send"]))
    for trait, reason in answer["invalid"].items():
        yield f"  {trait} is {reason}, cannot be sent, and counts as absent"
    if answer["rejected"]:
        yield "  rejected with {status} {reason}, {attempts} attempt(s), next one after {next_at}".format(
            **answer["rejected"]
        )


COMMANDS = (plan,)
