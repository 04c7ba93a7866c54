"""The one pure function in the middle: plan = desired(sources, contract, now) - delivered.

It is computed for all readers in every run, so that a changed rule, a changed setting or the mere passage of time
has exactly the consequences it should (decision 7). A statement says one thing; rows stay in the database.

The comparison of all traits as text is the truth. Before it stands a sieve, for few readers change in a day: a
number made of what the traits are made of and of the rule that makes text of it (:func:`_fingerprint`). What has the
number under which Engage was last told needs no comparison.

A cell of the plan is NULL where Engage was never told of that trait and there is nothing to tell: a reader of whom its
source knows nothing, or a trait that has left the contract.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from target_recurly_engage.desired import Source, desire, forget_desired, hash_of, rule_text
from target_recurly_engage.destinations import CURRENT, asides
from target_recurly_engage.intake import INVALID
from target_recurly_engage.invariants import check, check_cleared, check_readers
from target_recurly_engage.slices import compare
from target_recurly_engage.traits import USER_ID, Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.changes import TraitChanges
    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.traits import Wording

OF_DELIVERIES: Final = (USER_ID, "delivery_id", "fingerprint")
"""Columns of ``delivered`` that are no traits."""

_GONE: Final = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ageing:
    """Engage forgets readers who are idle for long, so they are told in full again in time.

    Attributes:
        after_days: days after which a reader is told again at the latest; 0 is never.
        over_days: days before that over which the readers of one day are spread.
    """

    after_days: float = 0
    over_days: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be sent; its rows lie in the table ``plan``, which is made like ``delivered``.

    Attributes:
        users: readers that a source knows, or of whom Engage was told.
        known: of these, readers of whom Engage was told before.
        new: readers of whom Engage was never told.
        changed: readers with another value in at least one steady trait.
        altered: of the changed, users with another value where Engage had one.
        gone: of the changed, readers whom a source knew and no longer knows: all its traits are cleared.
        present: users that a source knows now.
        again: readers without a change whose time to be told in full again has come.
        invalid: values that cannot be sent, and count as absent, by trait and reason.
        fingerprint: names what is planned and held back.
        traits: changes by trait.
    """

    users: int
    known: int
    new: int
    changed: int
    gone: int
    altered: int = 0
    present: int = 0
    again: int = 0
    invalid: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    traits: dict[str, TraitChanges] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Readers to send."""
        return self.new + self.changed + self.again


def ageing_of(config: Mapping[str, Any]) -> Ageing:
    """Read from the target's settings when readers are told again."""
    return Ageing(after_days=float(config["resend_after_days"]), over_days=int(config["resend_over_days"]))


def make_plan(
    ledger: Ledger,
    contract: Contract,
    *,
    now: str,
    clock: str,
    delivery_id: str,
    ageing: Ageing | None = None,
    counted: bool = True,
) -> Plan:
    """Compute the plan into the table ``plan``; to be called inside a transaction.

    Beside it are made, for this connection: ``again``, the readers that are told in full though they are known, and
    ``suspects``, those that were compared.

    Raises:
        RowsLost: the database did not find a row that is there, so a trait would be cleared that must not be.

    Args:
        ledger: the ledger, its sources up to date.
        contract: what may be sent, and how.
        now: the moment that counts as now when subscriptions are judged, as ISO 8601.
        clock: the moment at which this is done, as ISO 8601.
        delivery_id: names the delivery that will send it.
        ageing: when readers are told again; without it only after a file that came between.
        counted: count what changes, and note values that cannot be sent; of one reader that takes longer than the plan.
    """
    execute, wording = ledger.connection.execute, contract.wording
    _mend(ledger)
    traits = _shape(ledger, contract, clock)
    sources = desire(ledger, contract, now)
    execute(f"CREATE OR REPLACE TEMP TABLE readers AS {_readers(sources, contract.wording)}")
    check_readers(ledger, sources)
    execute(f"CREATE OR REPLACE TEMP TABLE again AS {_again(clock, ageing or Ageing())}")
    suspects = ledger.count(f"CREATE OR REPLACE TEMP TABLE suspects AS {_suspects(sources, wording)}")
    check("users to compare", found=ledger.count("SELECT count(*) FROM suspects"), expected=suspects)
    check_cleared(ledger, sources, contract.primary.counts)
    known = ledger.count("SELECT count(*) FROM delivered")
    gone = _gone(sources, wording)
    counts = compare(ledger, sources, traits, wording, delivery_id, gone=gone, counted=counted)
    present, fingerprint = ledger.count("SELECT count(*) FROM readers"), _name_plan(ledger)
    forget_desired(ledger, "readers", "primaries")
    _remember_equals(ledger)
    return Plan(
        users=known + counts.new,
        known=known,
        new=counts.new,
        changed=counts.changed - counts.again,
        gone=counts.gone,
        altered=counts.altered,
        present=present,
        again=counts.again,
        invalid=_note_invalid(ledger, sources, wording, clock) if counted else {},
        fingerprint=fingerprint,
        traits=counts.by_trait(traits),
    )


# What there is


def _mend(ledger: Ledger) -> None:
    """Keep one row a reader in ``delivered``, whoever made more of them."""
    if ledger.count("SELECT count(*) - count(DISTINCT user_id) FROM delivered"):
        execute = ledger.connection.execute
        twice = "SELECT user_id FROM delivered GROUP BY user_id HAVING count(*) > 1"
        execute(
            "CREATE OR REPLACE TEMP TABLE kept AS SELECT DISTINCT ON (user_id) * FROM delivered "
            f"WHERE user_id IN ({twice})"
        )
        execute("DELETE FROM delivered WHERE user_id IS NULL OR user_id IN (SELECT user_id FROM kept)")
        execute("INSERT INTO delivered BY NAME FROM kept")
        execute("DROP TABLE kept")


def told_traits(ledger: Ledger, contract: Contract) -> tuple[Trait, ...]:
    """Give the traits that ``delivered`` has columns of: those of the contract, then those that have left it."""
    columns = [column for column in ledger.columns("delivered") if column not in OF_DELIVERIES]
    kinds = ledger.kinds()
    active = tuple(trait for trait in contract.with_kinds(kinds).traits if trait.name in columns)
    left = (one for one in columns if one not in {trait.name for trait in active})
    return (*active, *(Trait(one, kinds.get(one, Kind.STRING)) for one in left))


def _shape(ledger: Ledger, contract: Contract, clock: str) -> tuple[Trait, ...]:
    """Give ``delivered`` the columns of the contract, and drop those that have left it once nobody has a value."""
    execute = ledger.connection.execute
    active = {trait.name for trait in contract.traits}
    left = [trait for trait in told_traits(ledger, contract) if trait.name not in active]
    for trait in left:
        clear = text(contract.wording.clear_value(trait))
        if not ledger.count(f"SELECT count(*) FROM delivered WHERE {name(trait.name)} <> {clear}"):
            execute(f"ALTER TABLE delivered DROP COLUMN {name(trait.name)}")
            if not any(trait.name in ledger.columns(one) for one in asides(ledger, "delivered")):
                execute("DELETE FROM traits WHERE trait = ?", [trait.name])
    for trait in contract.traits:
        execute(f"ALTER TABLE delivered ADD COLUMN IF NOT EXISTS {name(trait.name)} VARCHAR")
    ledger.note_kinds(contract.traits, clock)
    return told_traits(ledger, contract)


# Who may have changed


def _readers(sources: tuple[Source, ...], wording: Wording) -> str:
    """Make the SQL of all readers that a source knows, with their rows and their fingerprint."""
    own, *others = sources
    if not others:
        return "SELECT user_id, row, fingerprint FROM primaries"
    joined, fingerprints = "(SELECT user_id, row, fingerprint FROM primaries) AS readers", ["readers.fingerprint"]
    for i, source in enumerate(others):
        rows = f"SELECT {source.table}.{source.key} AS user_id, true AS {source.row}, {hash_of(source, wording)}"
        joined += f" FULL JOIN ({rows} AS hash_{i} FROM {source.table}) AS source_{i} USING (user_id)"
        fingerprints.append(f"hash_{i}")
    rows = ", ".join([own.row, *(source.row for source in others)])
    rule = text(rule_text(sources, wording))
    return f"SELECT user_id, {rows}, hash({rule}, {', '.join(fingerprints)}) AS fingerprint FROM {joined}"


def _again(clock: str, ageing: Ageing) -> str:
    """Make the SQL of known readers whose time to be told in full again has come.

    That is when they were told long ago, each of one day's readers on a day of his own, and after a file came between;
    after a file also who has vanished, for it may have brought back what he was cleared of.
    """
    overtaken = f"SELECT DISTINCT user_id FROM overtaken WHERE after <= {text(clock)}::TIMESTAMPTZ"
    if not ageing.after_days:
        return f"{overtaken} AND user_id IN (SELECT user_id FROM delivered)"
    day = timedelta(days=1).total_seconds()
    age = f"epoch({text(clock)}::TIMESTAMPTZ) - epoch(coalesce(acknowledged_at, started_at))"
    youngest = max(ageing.after_days - ageing.over_days + 1, 0) * day
    share = f"hash(user_id) % {max(ageing.over_days, 1)}"
    return f"""
        WITH old AS (SELECT delivery_id, {age} AS age FROM deliveries WHERE {age} >= {youngest}), aged AS (
            SELECT user_id FROM delivered JOIN old USING (delivery_id)
            WHERE age >= greatest({ageing.after_days} - {share}, 0) * {day}
        )
        SELECT user_id FROM aged SEMI JOIN readers USING (user_id)
        UNION SELECT user_id FROM ({overtaken}) SEMI JOIN delivered USING (user_id)
    """


def _gone(sources: tuple[Source, ...], wording: Wording) -> str:
    """Return the SQL of the fingerprint of a user whom no source knows."""
    return f"hash({text(_GONE)}, {text(rule_text(sources, wording))})"


def _suspects(sources: tuple[Source, ...], wording: Wording) -> str:
    """Make the SQL of the readers whose traits may differ from what Engage was told; no rows means no source."""
    rows = [source.row for source in sources]
    gone = _gone(sources, wording)
    columns = ", ".join(["user_id", *rows, "fingerprint"])
    return f"""
        SELECT {columns} FROM readers ANTI JOIN delivered USING (user_id, fingerprint)
        UNION ALL
        SELECT {columns} FROM readers SEMI JOIN again USING (user_id) SEMI JOIN delivered USING (user_id, fingerprint)
        UNION ALL
        SELECT user_id, {", ".join("NULL" for _ in rows)}, {gone} FROM delivered ANTI JOIN readers USING (user_id)
        WHERE fingerprint IS DISTINCT FROM {gone} OR user_id IN (FROM again)
    """


# What is noted


def _note_invalid(ledger: Ledger, sources: tuple[Source, ...], wording: Wording, clock: str) -> dict[str, int]:
    """Keep in the table ``invalid`` which values cannot be sent, and count them."""
    execute = ledger.connection.execute
    execute("CREATE OR REPLACE TEMP TABLE found (user_id VARCHAR, trait VARCHAR, reason VARCHAR)")
    for source in sources if ledger.count("SELECT count(*) FROM suspects") else ():  # every row would be looked at
        judged = {
            trait: _is_invalid(source, trait, wording)
            for trait in source.traits
            if not trait.computed or trait.kind is Kind.STRING
        }
        rows = source.joined("suspects")
        if not judged or not ledger.count(f"SELECT count(*) FROM {rows} WHERE {' OR '.join(judged.values())}"):
            continue
        for trait, is_invalid in judged.items():
            execute(
                f"INSERT INTO found SELECT suspects.user_id, ?, ? FROM {rows} WHERE {is_invalid}",
                [trait.name, wording.why_invalid(trait)],
            )
    well = "(FROM suspects ANTI JOIN found USING (user_id)) AS well"
    execute(f"DELETE FROM invalid USING {well} WHERE invalid.user_id = well.user_id")
    if ledger.count("SELECT count(*) FROM found"):
        execute(
            "CREATE OR REPLACE TEMP TABLE found AS SELECT found.*, coalesce(first_at, ?::TIMESTAMPTZ) AS first_at, "
            "?::TIMESTAMPTZ AS last_at FROM found LEFT JOIN invalid USING (user_id, trait)",
            [clock, clock],
        )
        execute("DELETE FROM invalid USING found WHERE invalid.user_id = found.user_id")
        execute("INSERT INTO invalid BY NAME FROM found")
    execute("DROP TABLE found")
    counts = execute("SELECT trait || ': ' || reason, count(*) FROM invalid GROUP BY ALL ORDER BY ALL").fetchall()
    return {str(words): int(count) for words, count in counts}


def _is_invalid(source: Source, trait: Trait, wording: Wording) -> str:
    """Build the SQL condition that what came for *trait* cannot be sent, be it noted already or still in its column."""
    in_column = wording.is_invalid(trait, source.column(trait))
    if trait.stream or trait.computed or trait.kind is Kind.STRING:
        return in_column
    noted = f"contains(',' || {source.table}.{INVALID} || ',', {text(f',{trait.key},')})"
    return f"({in_column} OR coalesce({noted}, false))" if trait.kind is Kind.DATE else f"coalesce({noted}, false)"


def _remember_equals(ledger: Ledger) -> None:
    """Give a reader whose traits are the same in other words of the rule the new fingerprint, for the next sieve."""
    ledger.connection.execute("""
        UPDATE delivered SET fingerprint = suspects.fingerprint
        FROM (FROM suspects ANTI JOIN plan USING (user_id)) AS suspects
        WHERE delivered.user_id = suspects.user_id
    """)


def _name_plan(ledger: Ledger) -> str:
    """Make a name of all that is desired, and where: it stays the same while a plan is delivered bit by bit."""
    query = f"SELECT printf('%016x', hash(count(*), bit_xor(hash(user_id, fingerprint)), {CURRENT})) FROM readers"
    ((found,),) = ledger.connection.execute(query).fetchall()
    return str(found)
