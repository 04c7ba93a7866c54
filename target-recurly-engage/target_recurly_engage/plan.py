"""The one pure function in the middle: plan = desired(subscriptions, wording, now) - delivered.

It is computed for all readers in every run, so that a changed rule, a changed setting or the mere passage of time
has exactly the consequences it should (decision 7). A statement says one thing; rows stay in the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from piano_engage_common.duck import name, text

from target_recurly_engage.traits import NAMES, STEADY, TRAITS, Wording, primary_order

if TYPE_CHECKING:
    from target_recurly_engage.ledger import Ledger

_SAME_SUBSCRIPTION = "coalesce(a.aid, '') = coalesce(b.aid, '') AND a.subscription_id = b.subscription_id"


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
    """What is to be sent; its rows lie in the temporary table ``plan``: ``user_id`` and all traits as text.

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
    vanished = 0
    if complete or not before:
        if complete:
            vanished = ledger.count(
                f"SELECT count(*) FROM subscriptions a WHERE NOT EXISTS (FROM incoming b WHERE {_SAME_SUBSCRIPTION})"
            )
        execute("DROP TABLE subscriptions")
        execute("ALTER TABLE incoming RENAME TO subscriptions")
    else:
        execute(f"DELETE FROM subscriptions a USING incoming b WHERE {_SAME_SUBSCRIPTION}")
        execute("INSERT INTO subscriptions BY NAME FROM incoming")
        execute("DROP TABLE incoming")
    return Merge(
        before=before, after=ledger.count("SELECT count(*) FROM subscriptions"), came=came, vanished=vanished
    )


def make_plan(ledger: Ledger, wording: Wording, *, now: str) -> Plan:
    """Compute the plan into the temporary table ``plan``.

    Args:
        ledger: the ledger, its subscriptions up to date.
        wording: how values are written.
        now: the moment that counts as now, as ISO 8601.
    """
    execute = ledger.connection.execute
    execute(f"CREATE OR REPLACE TEMP VIEW desired AS {_desired(wording, now)}")
    steady_differs = " OR ".join(f"desired.{name(t)} IS DISTINCT FROM delivered.{name(t)}" for t in STEADY)
    execute(f"""
        CREATE OR REPLACE TEMP TABLE plan AS
        SELECT desired.*, delivered.user_id IS NULL AS is_new
        FROM desired LEFT JOIN delivered USING (user_id)
        WHERE delivered.user_id IS NULL OR {steady_differs}
    """)
    users = ledger.count("SELECT count(*) FROM desired")
    counts = execute("SELECT count(*) FILTER (is_new), count(*) FILTER (NOT is_new), count(*) FILTER (gone) FROM plan")
    ((new, changed, gone),) = counts.fetchall()
    return Plan(
        users=users,
        known=ledger.count("SELECT count(*) FROM delivered"),
        new=new,
        changed=changed,
        gone=gone,
        traits=_trait_changes(ledger, wording) if new or changed else {},
    )


def _desired(wording: Wording, now: str) -> str:
    written = ", ".join(f"{wording.written(trait)} AS {name(trait.name)}" for trait in TRAITS)
    cleared = ", ".join(f"{text(wording.clear_value(trait))} AS {name(trait.name)}" for trait in TRAITS)
    return f"""
        WITH primary_rows AS (
            SELECT arg_min(rowid, {primary_order(now)}) AS row FROM subscriptions GROUP BY user_id
        )
        SELECT user_id, {written}, false AS gone
        FROM subscriptions SEMI JOIN primary_rows ON subscriptions.rowid = primary_rows.row
        UNION ALL
        SELECT user_id, {cleared}, true AS gone
        FROM delivered ANTI JOIN subscriptions USING (user_id)
    """


def _trait_changes(ledger: Ledger, wording: Wording) -> dict[str, TraitChanges]:
    cells = []
    for trait in TRAITS:
        column, clear = name(trait.name), text(wording.clear_value(trait))
        differs = f"NOT is_new AND plan.{column} IS DISTINCT FROM delivered.{column}"
        cells += [
            f"count(*) FILTER (is_new AND plan.{column} <> {clear})",
            f"count(*) FILTER ({differs} AND plan.{column} <> {clear})",
            f"count(*) FILTER ({differs} AND plan.{column} = {clear})",
        ]
    query = f"SELECT {', '.join(cells)} FROM plan LEFT JOIN delivered USING (user_id)"
    (row,) = ledger.connection.execute(query).fetchall()
    return {
        trait: TraitChanges(new=row[3 * i], changed=row[3 * i + 1], cleared=row[3 * i + 2])
        for i, trait in enumerate(NAMES)
    }
