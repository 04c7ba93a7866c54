"""Why a reader has his traits: source rows, the rule that chose among them, values old and new, and what was sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.computed import STAGE_SQL, lives
from target_recurly_engage.desired import desire, forget_desired
from target_recurly_engage.eligibility import asked_of, reasons
from target_recurly_engage.erase import receipt_of
from target_recurly_engage.invariants import check
from target_recurly_engage.manifest import description
from target_recurly_engage.predicates import member
from target_recurly_engage.primary import judged
from target_recurly_engage.promotions import promotions_of
from target_recurly_engage.traits import TRAITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.desired import Source
    from target_recurly_engage.ledger import Ledger

_WORDS: Final = {
    "live": {"false": "yes", "true": "no"},
    "renews": {"false": "yes", "true": "no"},
    "paid": {"0": "paid", "1": "trial", "2": "free"},
    "not_site_licence": {"false": "yes", "true": "no"},
}
"""What the numbers of some criteria stand for; of the others the smaller one comes first."""
_IN_ROW: Final = ("_start", "_end", "_id")
"""Ends of names of criteria that a person sees better in the row itself."""
_NOT_READ: Final = frozenset({"subscription_id", "stage", "aid", "user_id"})
"""Columns that are said otherwise."""
_SHOWN: Final = ("subscription_id", "subscription_status", "term_name", "start_date", "access_expiration_date")


def explain(ledger: Ledger, contract: Contract, now: str, user_id: str) -> dict[str, Any]:
    """Explain one reader, by what the ledger holds; nothing in it changes.

    Args:
        ledger: the ledger.
        contract: what is sent, and how.
        now: the moment that counts as now, as ISO 8601.
        user_id: the reader.

    Returns:
        ``subscriptions`` (the primary one first, each with the criteria of the rule and whether it counts),
        ``decided_by``, ``traits`` (value, told value, what it is, how it is made; ``read`` says what a formula read of
        which subscription), ``segments``, ``promotions`` that segments ask of (whether he may use each, and why not),
        ``sent``, ``rejected``, ``invalid`` (values that cannot be sent), ``api`` (what Piano's API said of his
        subscriptions) and ``erased`` (the receipt, of a reader who was erased).
    """
    shadows = ["subscriptions", *(stream.table for stream in contract.users if ledger.columns(stream.table))]
    keys = {stream.table: name(stream.user_id) for stream in contract.users}
    ((database,),) = ledger.connection.execute("SELECT current_database()").fetchall()
    catalog = name(database)
    try:
        for table in shadows:  # for this connection, the tables hold this reader only
            ledger.connection.execute(
                f"CREATE OR REPLACE TEMP TABLE {table} AS FROM {catalog}.main.{table} "
                f"WHERE {keys.get(table, 'user_id')} = {text(user_id)}"
            )
        sources = desire(ledger, contract, now)
        subscriptions = _subscriptions(ledger, contract, now)
        return {
            "user_id": user_id,
            "subscriptions": subscriptions,
            "decided_by": _decided_by(subscriptions),
            "traits": _traits(ledger, contract, sources, user_id, _read(ledger, contract, now)),
            "segments": _segments(ledger, contract),
            "promotions": _promotions(ledger, contract, now, user_id),
            "sent": _sent(ledger, user_id),
            "rejected": _rejected(ledger, user_id),
            "invalid": dict(
                ledger.connection.execute("SELECT trait, reason FROM invalid WHERE user_id = ?", [user_id]).fetchall()
            ),
            "api": _api(ledger, user_id),
            "erased": receipt_of(ledger, user_id),
        }
    finally:
        forget_desired(ledger)
        for table in shadows:
            ledger.connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


def _subscriptions(ledger: Ledger, contract: Contract, now: str) -> list[dict[str, Any]]:
    rule, columns = contract.primary, [trait.name for trait in TRAITS]
    criteria = rule.criteria()
    cells = [f"{name(column)}::VARCHAR" for column in columns] + [f"({sql})::VARCHAR" for sql in criteria.values()]
    rows = ledger.connection.execute(
        f"SELECT {rule.counts}, {', '.join(cells)} FROM ({judged(now)}) ORDER BY NOT ({rule.counts}), {rule.sql}"
    ).fetchall()
    return [
        {
            "counts": counts,
            "row": dict(zip(columns, values[: len(columns)], strict=True)),
            "criteria": {
                criterion: _WORDS.get(criterion, {}).get(value, value)
                for criterion, value in zip(criteria, values[len(columns) :], strict=True)
            },
        }
        for counts, *values in rows
    ]


def _decided_by(subscriptions: list[dict[str, Any]]) -> str | None:
    """Name the criterion that tells the primary subscription from the next one."""
    counted = [one["criteria"] for one in subscriptions if one["counts"]]
    if len(counted) < 2:  # noqa: PLR2004 - with one there was no choice
        return None
    return str(next(criterion for criterion in counted[0] if counted[0][criterion] != counted[1][criterion]))


def _read(ledger: Ledger, contract: Contract, now: str) -> dict[str, list[dict[str, str]]]:
    """Give, by formula, what it read: of each subscription it looks at the id, and the columns that it names."""
    if not contract.formulas:
        return {}
    tenure = any("days_added" in formula.sql for formula in contract.formulas)
    source = lives(contract.primary, now=now, zone=contract.wording.zone, tenure=tenure)
    asked = ledger.connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({source}) ORDER BY NOT is_primary, start_date")
    columns = [column for column, *_ in asked.description or ()]
    rows = [dict(zip(columns, row, strict=True)) for row in asked.fetchall()]
    found = {}
    for formula in contract.formulas:
        named = set(re.findall(r"\w+", _in_full(formula.sql)))
        shown = ["subscription_id", *(one for one in columns if one in named and one not in _NOT_READ)]
        found[formula.name] = [
            {one: row[one] for one in shown if row[one] is not None}
            for row in rows
            if formula.of_all or row["is_primary"] == "true"
        ]
    return found


def _in_full(sql: str) -> str:
    """Give a formula with what it calls ``stage``."""
    return f"{sql}, where stage is {STAGE_SQL}" if re.search(r"\bstage\b", sql) else sql


def _traits(
    ledger: Ledger,
    contract: Contract,
    sources: tuple[Source, ...],
    user_id: str,
    read: dict[str, list[dict[str, str]]],
) -> dict[str, dict[str, Any]]:
    told = dict(
        ledger.connection.execute("SELECT trait, value FROM delivered_traits WHERE user_id = ?", [user_id]).fetchall()
    )
    formulas, found = {formula.name: formula.sql for formula in contract.formulas}, {}
    for source in sources:
        wording = contract.wording
        cells = [wording.written(trait, source.column(trait)) for trait in source.traits]
        if not cells:
            continue
        own = source is sources[0]
        place = source.joined("primaries") if own else source.table
        rows = ledger.connection.execute(f"SELECT {', '.join(cells)} FROM {place}").fetchall()
        if own:
            check("primary subscriptions", found=len(rows), expected=ledger.count("SELECT count(*) FROM primaries"))
        for i, trait in enumerate(source.traits):
            found[trait.name] = {
                "value": rows[0][i] if rows else wording.clear_value(trait) if trait.name in told else None,
                "told": told.get(trait.name),
                "meaning": description(trait, contract),
                "made_of": _in_full(formulas[trait.key])
                if trait.key in formulas
                else f"{trait.key} of {source.table.strip(chr(34))}",
                "read": read.get(trait.key, []),
            }
    return found


def _segments(ledger: Ledger, contract: Contract) -> dict[str, dict[str, Any]]:
    found = {}
    for segment in contract.segments:
        query = (
            f"SELECT {member(segment.name)}, {name(f'told {segment.name}')} FROM matches JOIN audience USING (user_id)"
        )
        for matches, inside in ledger.connection.execute(query).fetchall():
            found[segment.name] = {"matches": matches, "told": inside, "held_back_or_outranked": matches and not inside}
    return found


def _promotions(ledger: Ledger, contract: Contract, now: str, user_id: str) -> dict[str, dict[str, Any]]:
    asked = asked_of(contract)
    if not asked:
        return {}
    known = {one: promotion for one, promotion in promotions_of(ledger, now).items() if one in asked}
    return reasons(ledger, known, user_id)


def _sent(ledger: Ledger, user_id: str) -> dict[str, Any] | None:
    columns = ("run_id", "channel", "location", "status", "started_at::VARCHAR", "acknowledged_at::VARCHAR")
    rows = ledger.connection.execute(
        f"SELECT {', '.join(columns)} FROM delivered JOIN deliveries USING (delivery_id) WHERE user_id = ?", [user_id]
    ).fetchall()
    names = (column.removesuffix("::VARCHAR") for column in columns)
    return dict(zip(names, rows[0], strict=True)) if rows else None


def _rejected(ledger: Ledger, user_id: str) -> dict[str, Any] | None:
    columns = ("status", "reason", "attempts", "first_at::VARCHAR", "last_at::VARCHAR", "next_at::VARCHAR")
    rows = ledger.connection.execute(
        f"SELECT {', '.join(columns)} FROM rejects WHERE user_id = ?", [user_id]
    ).fetchall()
    names = (column.removesuffix("::VARCHAR") for column in columns)
    return dict(zip(names, rows[0], strict=True)) if rows else None


def _api(ledger: Ledger, user_id: str) -> list[dict[str, Any]]:
    columns = ("subscription_id", "api_status", "auto_renew::VARCHAR", "end_date::VARCHAR", "read_at::VARCHAR")
    rows = ledger.connection.execute(
        f"SELECT {', '.join(columns)} FROM api_subscriptions WHERE user_id = ? ORDER BY subscription_id", [user_id]
    ).fetchall()
    names = [column.removesuffix("::VARCHAR") for column in columns]
    return [dict(zip(names, row, strict=True)) for row in rows]


def words_of(found: dict[str, Any], trait: str | None) -> Iterator[str]:
    """Put an explanation into words, of one *trait* or of all."""
    if found["erased"]:
        yield "{user}: erased on {requested_at}, {status}; {answer}".format(
            user=found["user_id"], **{"answer": "nothing was ever delivered"} | found["erased"]
        )
    nothing = not found["subscriptions"] and not any(one["told"] for one in found["traits"].values())
    if nothing and not found["rejected"]:
        if not found["erased"]:
            yield f"{found['user_id']}: the ledger knows no such reader"
        return
    yield f"{found['user_id']}: {len(found['subscriptions'])} subscription(s), the first is the primary one"
    for one in found["subscriptions"]:
        yield "  " + ", ".join(str(one["row"][column]) for column in _SHOWN) + ("" if one["counts"] else " (left out)")
        yield "      " + ", ".join(
            f"{criterion} {value}" for criterion, value in one["criteria"].items() if not criterion.endswith(_IN_ROW)
        )
    for one in found["api"]:
        renews = {"true": ", renews", "false": ", does not renew"}.get(one["auto_renew"], "")
        yield f"  Piano's API on {one['read_at']}: {one['subscription_id']} {one['api_status']}{renews}"
    yield from _words_of_history(found)
    yield from _words_of_values(found, trait)
    if trait is None:
        yield from _words_of_audiences(found)


def _words_of_history(found: dict[str, Any]) -> Iterator[str]:
    if found["decided_by"]:
        yield f"chosen by {found['decided_by']}"
    sent = found["sent"]
    if sent:
        yield "last delivered by {channel} in run {run_id}: {location}, {status} at {acknowledged_at}".format(**sent)
    else:
        yield "nothing was delivered yet"
    if found["rejected"]:
        yield "rejected with {status} {reason}, {attempts} attempt(s), next one after {next_at}".format(
            **found["rejected"]
        )


def _words_of_values(found: dict[str, Any], trait: str | None) -> Iterator[str]:
    for name_, one in found["traits"].items():
        if trait in {None, name_}:
            change = one["value"] if one["value"] == one["told"] else f"{one['told'] or '(not told)'} → {one['value']}"
            yield f"  {name_}: {change}"
        if trait == name_:
            yield f"    {one['meaning']}"
            yield "    made of: " + one["made_of"].replace("\n", "\n      ")
            for row in one["read"]:
                yield "    read: " + ", ".join(f"{column} {value}" for column, value in row.items())
    for trait_, reason in found["invalid"].items():
        if trait in {None, trait_}:
            yield f"  {trait_} cannot be sent, and counts as absent: {reason}"


def _words_of_audiences(found: dict[str, Any]) -> Iterator[str]:
    for segment, one in found["segments"].items():
        if one["matches"]:
            yield f"  in {segment}" + (", but held back or outranked" if one["held_back_or_outranked"] else "")
    for promotion, one in found["promotions"].items():
        why_not = f": {', '.join(one['why_not'])}" if one["why_not"] else ""
        yield f"  {'may' if one['may'] else 'may not'} use {promotion} ({one['name']}){why_not}"
