"""The one pure function in the middle: plan = desired(subscriptions, wording, now) - delivered.

It is computed for all readers in every run, so that a changed rule, a changed setting or the mere passage of time
has exactly the consequences it should (decision 7). A statement says one thing; rows stay in the database.

The comparison of all traits as text is the truth. Before it stands a sieve, for few readers change in a day: a
number made of the primary subscription and of the rule that makes text of it (:func:`_fingerprint`). What has the
number under which Engage was last told needs no comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
from piano_engage_common.duck import name, text

from target_recurly_engage.traits import NAMES, STEADY, TRAITS, Wording, primary_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from target_recurly_engage.ledger import Ledger


_ABSENT = "subscriptions ANTI JOIN incoming USING (subscription_id)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What the rows that came did to the subscriptions.

    Attributes:
        before: subscriptions before.
        after: subscriptions after.
        came: different subscriptions among the rows that came.
        vanished: subscriptions that a complete log no longer holds.
    """

    before: int
    after: int
    came: int
    vanished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitChanges:
    """For one trait: how many readers get a first value, another value, or the value that clears it."""

    new: int = 0
    changed: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be sent; its rows lie in the table ``plan``, which is made like ``delivered``.

    Attributes:
        users: readers that have a subscription, or had one when Engage was last told.
        known: of these, readers of whom Engage was told before.
        new: readers of whom Engage was never told.
        changed: readers with another value in at least one steady trait.
        gone: of the changed, readers without any subscription left: all their traits are cleared.
        traits: changes by trait.
    """

    users: int
    known: int
    new: int
    changed: int
    gone: int
    traits: dict[str, TraitChanges] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Readers to send."""
        return self.new + self.changed


def merge(ledger: Ledger, *, complete: bool) -> Merge:
    """Bring ``subscriptions`` up to date with ``incoming``; to be called inside a transaction.

    Args:
        ledger: the ledger.
        complete: the rows that came are the complete log, so what they lack has vanished.
    """
    execute = ledger.connection.execute
    before = ledger.count("SELECT count(*) FROM subscriptions")
    came = ledger.count("SELECT count(*) FROM incoming")
    vanished = ledger.count(f"SELECT count(*) FROM {_ABSENT}") if complete else 0
    if not complete and came < before / 2:
        _add_to_subscriptions(execute)
    else:
        if not complete:
            execute(f"INSERT INTO incoming BY NAME FROM {_ABSENT}")
        execute("DROP TABLE subscriptions")
        execute("ALTER TABLE incoming RENAME TO subscriptions")
    return Merge(before=before, after=ledger.count("SELECT count(*) FROM subscriptions"), came=came, vanished=vanished)


def _add_to_subscriptions(execute: Callable[[str], object]) -> None:
    """Where few rows came, they go to the many."""
    execute("DELETE FROM subscriptions USING incoming WHERE subscriptions.subscription_id = incoming.subscription_id")
    execute("INSERT INTO subscriptions BY NAME FROM incoming")
    execute("DROP TABLE incoming")


def make_plan(ledger: Ledger, wording: Wording, *, now: str, delivery_id: str) -> Plan:
    """Compute the plan into the table ``plan``; to be called inside a transaction.

    Args:
        ledger: the ledger, its subscriptions up to date.
        wording: how values are written.
        now: the moment that counts as now, as ISO 8601.
        delivery_id: names the delivery that will send it.
    """
    execute = ledger.connection.execute
    execute(f"CREATE OR REPLACE TEMP TABLE primaries AS {_primaries(wording, now)}")
    execute(f"CREATE OR REPLACE TEMP TABLE suspects AS {_suspects(wording)}")
    execute(f"CREATE OR REPLACE TABLE plan AS {_differing(wording, delivery_id)}")
    execute("DROP TABLE primaries")
    _remember_equals(ledger)
    new, new_traits = _first_values(ledger, wording)
    changed, changes = _other_values(ledger, wording)
    known = ledger.count("SELECT count(*) FROM delivered")
    return Plan(
        users=known + new,
        known=known,
        new=new,
        changed=changed,
        gone=ledger.count("SELECT count(*) FROM plan SEMI JOIN (FROM suspects WHERE row IS NULL) USING (user_id)"),
        traits={
            trait: TraitChanges(new=new_traits[i], changed=changes[2 * i], cleared=changes[2 * i + 1])
            for i, trait in enumerate(NAMES)
        }
        if new or changed
        else {},
    )


def _primaries(wording: Wording, now: str) -> str:
    """Make the SQL of each reader's primary subscription; who has only one needs no order."""
    return f"""
        WITH readers AS (
            SELECT user_id, count(*) AS subscriptions, min(rowid) AS row, min({_fingerprint(wording)}) AS fingerprint
            FROM subscriptions GROUP BY user_id
        ), chosen AS (
            SELECT user_id, arg_min({{row: rowid, fingerprint: {_fingerprint(wording)}}}, {primary_order(now)}) AS best
            FROM subscriptions SEMI JOIN (FROM readers WHERE subscriptions > 1) USING (user_id) GROUP BY user_id
        )
        SELECT user_id, row, fingerprint FROM readers WHERE subscriptions = 1
        UNION ALL
        SELECT user_id, best.row, best.fingerprint FROM chosen
    """


def _fingerprint(wording: Wording) -> str:
    """Make the SQL of a number that another value of a steady trait, or another rule, makes another."""
    return f"hash({text(_rule(wording))}, {', '.join(map(name, STEADY))})"


def _rule(wording: Wording) -> str:
    """Put into words how values become text: the very SQL, and the program that runs it and knows the time zones."""
    return "\n".join([duckdb.__version__, *map(wording.written, TRAITS)])


def _suspects(wording: Wording) -> str:
    """Make the SQL of the readers whose traits may differ from what Engage was told; no row means no subscription."""
    gone = f"hash('gone', {text(_rule(wording))})"
    return f"""
        SELECT user_id, row, fingerprint FROM primaries ANTI JOIN delivered USING (user_id, fingerprint)
        UNION ALL
        SELECT DISTINCT user_id, NULL, {gone} FROM delivered ANTI JOIN primaries USING (user_id)
        WHERE fingerprint IS DISTINCT FROM {gone} AND user_id IS NOT NULL
    """


def _differing(wording: Wording, delivery_id: str) -> str:
    """Make the SQL of the plan: the suspects' desired traits without those that Engage was told word by word."""
    written = ", ".join(f"{wording.written(trait)} AS {name(trait.name)}" for trait in TRAITS)
    cleared = ", ".join(f"{text(wording.clear_value(trait))} AS {name(trait.name)}" for trait in TRAITS)
    return f"""
        WITH desired AS (
            SELECT suspects.user_id, {text(delivery_id)} AS delivery_id, fingerprint, {written}
            FROM subscriptions JOIN suspects ON subscriptions.rowid = suspects.row
            UNION ALL
            SELECT user_id, {text(delivery_id)}, fingerprint, {cleared} FROM suspects WHERE row IS NULL
        ), told AS (
            FROM delivered SEMI JOIN suspects USING (user_id)
        )
        FROM desired ANTI JOIN told USING (user_id, {", ".join(map(name, STEADY))})
    """


def _remember_equals(ledger: Ledger) -> None:
    """Give a reader whose traits are the same in other words of the rule the new fingerprint, for the next sieve."""
    ledger.connection.execute("""
        UPDATE delivered SET fingerprint = suspects.fingerprint
        FROM (FROM suspects ANTI JOIN plan USING (user_id)) AS suspects
        WHERE delivered.user_id = suspects.user_id
    """)


def _first_values(ledger: Ledger, wording: Wording) -> tuple[int, list[int]]:
    """Count readers that are new, and for each trait those of them that get a value."""
    cells = ", ".join(f"count_if({name(t.name)} <> {text(wording.clear_value(t))})" for t in TRAITS)
    query = f"SELECT count(*), {cells} FROM plan ANTI JOIN delivered USING (user_id)"
    ((new, *traits),) = ledger.connection.execute(query).fetchall()
    return new, [count or 0 for count in traits]  # of no rows count_if() makes NULL


def _other_values(ledger: Ledger, wording: Wording) -> tuple[int, list[int]]:
    """Count readers that Engage knows, and for each trait those that get another value, and those that lose it."""
    cells = []
    for trait in TRAITS:
        column, clear = name(trait.name), text(wording.clear_value(trait))
        differs = f"plan.{column} IS DISTINCT FROM delivered.{column}"
        cells += [
            f"count_if({differs} AND plan.{column} <> {clear})",
            f"count_if({differs} AND plan.{column} = {clear})",
        ]
    query = f"SELECT count(DISTINCT user_id), {', '.join(cells)} FROM plan JOIN delivered USING (user_id)"
    ((changed, *traits),) = ledger.connection.execute(query).fetchall()
    return changed, [count or 0 for count in traits]
