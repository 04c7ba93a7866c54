"""What Engage should be told of each reader: the sources of traits, worked out from what the ledger holds of Piano.

A source is a table with at most one row a reader that counts: the subscriptions, what formulas make of them, streams of
users, and the audience (who is in which segment and arm).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb
from piano_engage_common.duck import name, text
from piano_engage_common.stops import ConfigRefused

from target_recurly_engage.computed import BY_NAME, computed, lives
from target_recurly_engage.eligibility import asked_of, make_eligible, may_without_subscription
from target_recurly_engage.handed_codes import promotions_of_arms
from target_recurly_engage.intake import INVALID
from target_recurly_engage.invariants import ROWS, check, check_primaries
from target_recurly_engage.predicates import delivered, may, member, predicate, told
from target_recurly_engage.primary import TAKES_OVER, judged, taking_over
from target_recurly_engage.traits import Kind, blank_is_null

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.computed import Formula
    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.promotions import Promotion
    from target_recurly_engage.traits import Trait, Wording


_OF_VALUES: Final = (duckdb.DataError, duckdb.InvalidInputException)
"""What DuckDB raises where a value, and not the query, is at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table with at most one row a reader that counts.

    Attributes:
        table: its name, quoted.
        row: column of ``readers`` and ``suspects`` that points to the row; NULL is none.
        traits: what is made of it.
        key: column, quoted, that names the user.
        pointer: SQL of what points to a row; of a table with one row a user it is enough to say that there is one.
    """

    table: str
    row: str
    traits: tuple[Trait, ...]
    key: str = "user_id"
    pointer: str = "true"

    @property
    def of_stream(self) -> bool:
        """Whether it may know users who have no subscription."""
        return any(trait.stream for trait in self.traits)

    def joined(self, table: str) -> str:
        """Build the SQL of the rows that *table*, with columns as ``suspects``, points to.

        By keys: DuckDB 2.0.0 lost rows that were joined by their ``rowid`` in the transaction that wrote them.
        """
        found = f"{self.table}.{self.key} = {table}.user_id"
        if self.pointer != "true":
            found = f"{self.pointer} = {table}.{self.row}"
        return f"{self.table} JOIN {table} ON {found}"

    def column(self, trait: Trait) -> str:
        """Name, quoted, of the column that *trait* is made of."""
        return f"{self.table}.{name(trait.key)}"


def desire(ledger: Ledger, contract: Contract, now: str) -> tuple[Source, ...]:
    """Work out, for this connection, what traits are made of, and list the sources that have ever come.

    Made are ``primaries`` (user_id, row, which is the primary subscription's id, fingerprint), ``computed`` with a
    column for each formula, ``matches`` that says who matches a segment, ``audience`` with what is told of it, and
    ``eligible`` where segments ask of promotions.

    Raises:
        RowsLost: one of them lacks a user, or was made without a row that is there.
    """
    execute = ledger.connection.execute
    own = Source(table="subscriptions", row="row", traits=contract.own, pointer="subscriptions.subscription_id")
    execute(f"CREATE OR REPLACE TEMP TABLE {TAKES_OVER} AS {taking_over(contract.primary, now)}")
    execute(f"CREATE OR REPLACE TEMP TABLE primaries AS {_primaries(own, contract, now)}")
    users, rows = check_primaries(ledger, contract.primary.counts)
    sources = [own]
    if contract.formulas:
        _compute(ledger, contract, now, users=users, rows=rows)
        sources.append(Source(table="computed", row="row_computed", traits=contract.computed))
    for i, stream in enumerate(contract.users):
        columns = ledger.columns(stream.table)
        if traits := tuple(trait for trait in stream.traits if trait.key in columns):
            sources.append(Source(table=stream.table, row=f"row_{i}", traits=traits, key=name(stream.user_id)))
    if contract.audience:
        _match(ledger, contract, sources, now)
        sources.append(Source(table="audience", row="row_audience", traits=contract.audience))
    return tuple(sources)


def forget_desired(ledger: Ledger, *tables: str) -> None:
    """Drop what :func:`desire` made."""
    for table in tables or ("primaries", "computed", "matches", "audience", "eligible", "held_codes", TAKES_OVER):
        ledger.connection.execute(f"DROP TABLE IF EXISTS temp.{name(table)}")


def _compute(ledger: Ledger, contract: Contract, now: str, *, users: int, rows: int) -> None:
    """Make ``computed``: formulas of one sort at a time, which takes less memory than all at once.

    Raises:
        RowsLost: it has not a row for each of *users*, made of all of their *rows*.
    """
    execute, made = ledger.connection.execute, list[str]()
    sorts = ((False, False), (True, False), (True, True))
    for of_all, spans in sorts:
        formulas = tuple(
            one for one in contract.formulas if one.of_all is of_all and ("days_added" in one.sql.lower()) is spans
        )
        if formulas or not of_all:
            source = lives(contract.primary, now=now, zone=contract.wording.zone, tenure=spans)
            table = f"computed_{len(made)}"
            with _own_formulas(formulas):
                execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {computed(formulas, source, of_all=of_all)}")
            found, read = execute(f"SELECT count(*), sum({ROWS}) FROM {table}").fetchall()[0]
            check("users with computed traits", found=found, expected=users)
            check("subscriptions that computed traits are made of", found=read or 0, expected=rows if of_all else users)
            made.append(table)
    joined = made[0] + "".join(f" JOIN {table} USING (user_id)" for table in made[1:])
    cells = ", ".join(["user_id", *(name(one.name) for one in contract.formulas)])
    execute(f"CREATE OR REPLACE TEMP TABLE computed AS SELECT {cells} FROM {joined}")
    check("users with computed traits", found=ledger.count("SELECT count(*) FROM computed"), expected=users)
    for table in made:
        execute(f"DROP TABLE {table}")


@contextmanager
def _own_formulas(formulas: tuple[Formula, ...]) -> Iterator[None]:
    """Name the formulas of the user's own where one of *formulas* cannot be worked out on the rows there are.

    Raises:
        ConfigRefused: one cannot. What it stumbled over is not shown, for it may be about a person.
    """
    try:
        yield
    except _OF_VALUES as e:
        own = ", ".join(one.name for one in formulas if one.name not in BY_NAME)
        if not own:
            raise
        what = str(e).split(":", maxsplit=1)[0]
        msg = f"traits: one of {own} cannot be worked out on the subscriptions there are ({what}): let it use TRY_CAST"
        raise ConfigRefused(msg) from e


def today_of(ledger: Ledger, wording: Wording, now: str) -> str:
    """Give the day of the moment *now* in the zone of the settings, as ISO 8601."""
    query = f"SELECT timezone({text(wording.zone)}, {text(now)}::TIMESTAMPTZ)::DATE::VARCHAR"
    ((today,),) = ledger.connection.execute(query).fetchall()
    return str(today)


def _match(ledger: Ledger, contract: Contract, sources: list[Source], now: str) -> None:
    """Make ``matches`` and ``audience`` for all readers that a source knows."""
    execute, wording = ledger.connection.execute, contract.wording
    asked = asked_of(contract)
    of_arms = {one for found in promotions_of_arms(ledger, contract).values() for one in found}
    known = make_eligible(ledger, contract, now, {*asked, *of_arms}) if asked or of_arms else {}
    promotions = {one: promotion for one, promotion in known.items() if one in asked}
    execute(f"CREATE OR REPLACE TEMP VIEW profiles AS {_profiles(contract, sources, promotions)}")
    today = today_of(ledger, wording, now)
    clear = {Kind.STRING: wording.clear_string, Kind.BOOLEAN: wording.clear_boolean}
    matched = "SELECT * FROM profiles"
    for segment in contract.segments:  # each may read those before it
        holds = predicate(segment, today=today, clear=clear)
        matched = f"SELECT *, {holds} AS {member(segment.name)} FROM ({matched})"
    members = "".join(f", {member(segment.name)}" for segment in contract.segments)
    execute(f"CREATE OR REPLACE TEMP TABLE matches AS SELECT user_id{members}, {_LOST} FROM ({matched})")
    check("rows that segments ask of", found=ledger.count(f"SELECT count_if({_LOST}) FROM matches"), expected=0)
    cells = [f"{sql} AS {delivered(segment)}" for segment, sql in told(contract.segments).items()]
    audience = f"SELECT {', '.join(['user_id', *cells])} FROM matches"
    if contract.experiments:
        arms = ", ".join(f"{one.sql} AS {name(one.key)}" for one in contract.experiments)
        audience = f"SELECT *, {arms} FROM ({audience})"
    if contract.listed and contract.segments:
        names = ", ".join(
            f"CASE WHEN {delivered(segment.name)} THEN {text(segment.name)} END" for segment in contract.segments
        )
        audience = f"SELECT *, nullif(concat_ws(',', {names}), '') AS segments FROM ({audience})"
    execute(f"CREATE OR REPLACE TEMP TABLE audience AS {audience}")
    found, expected = (ledger.count(f"SELECT count(*) FROM {table}") for table in ("audience", "matches"))
    check("users with segments", found=found, expected=expected)
    execute("DROP VIEW profiles")


def _profiles(contract: Contract, sources: list[Source], promotions: Mapping[str, Promotion]) -> str:
    """Build the SQL of all users with what segments ask of, under the names of the settings, of the traits' types.

    A column says whether a row that is there was not found.
    """
    asked = {trait for segment in contract.segments for trait in segment.traits}
    cells, joins = [], "primaries LEFT JOIN subscriptions ON subscriptions.subscription_id = primaries.row"
    users, found = "coalesce(primaries.user_id", ["subscriptions.user_id"]
    if contract.formulas:
        joins += " LEFT JOIN computed ON computed.user_id = primaries.user_id"
        found.append("computed.user_id")
    for source in sources[1:]:
        if source.table != "computed":
            joins += f" FULL JOIN {source.table} ON {source.table}.{source.key} = {users})"
            users += f", {source.table}.{source.key}"
    tables = {trait.key: source for source in sources for trait in source.traits if trait.stream}
    for trait in sorted(asked, key=lambda one: one.key):
        if trait.stream:
            value = "NULL"  # where the stream has never come
            if trait.key in tables:
                value = contract.wording.value(trait, tables[trait.key].column(trait))
            cells.append(f"TRY_CAST({value} AS {_SEGMENT_TYPES[trait.kind]}) AS {name(trait.key)}")
        elif trait.computed:
            cells.append(f"computed.{name(trait.key)} AS {name(trait.key)}")
        else:
            cells.append(f"{of_log(trait, contract.wording)} AS {name(trait.key)}")
    if promotions:
        joins += f" LEFT JOIN eligible ON eligible.user_id = {users})"
        found.append("eligible.user_id")
    for one in asked_of(contract):
        known = promotions.get(one)
        value = f"coalesce(eligible.{may(one)}, {may_without_subscription(known)})" if known else "NULL::BOOLEAN"
        cells.append(f"{value} AS {may(one)}")
    lost = " OR ".join(f"primaries.user_id IS DISTINCT FROM {one}" for one in found)
    cells.append(f"primaries.user_id IS NOT NULL AND ({lost}) AS {_LOST}")
    return f"SELECT {', '.join([f'{users}) AS user_id', *cells])} FROM {joins}"


_LOST: Final = name("a row was not found")
"""Column of ``profiles`` and ``matches``."""

_SEGMENT_TYPES: Final = {
    Kind.STRING: "VARCHAR", Kind.NUMBER: "DECIMAL(38,6)", Kind.MONEY: "DECIMAL(38,6)", Kind.BOOLEAN: "BOOLEAN",
    Kind.DATE: "DATE",
}  # fmt: skip


def of_log(trait: Trait, wording: Wording) -> str:
    """Make the SQL of a property of the table ``subscriptions`` as segments ask of it: a day for a date."""
    column = f"subscriptions.{name(trait.key)}"
    if trait.kind is Kind.STRING:
        return blank_is_null(column)
    return f"timezone({text(wording.zone)}, {column})::DATE" if trait.kind is Kind.DATE else column


def _primaries(own: Source, contract: Contract, now: str) -> str:
    """Build the SQL of each user's primary subscription; a user with only one needs no order."""
    fingerprint = _fingerprint(own, contract.wording)
    rule = contract.primary
    return f"""
        WITH readers AS (
            SELECT user_id, count(*) AS {ROWS}, min({own.pointer}) AS row, min({fingerprint}) AS fingerprint
            FROM subscriptions WHERE {rule.counts} GROUP BY user_id
        ), chosen AS (
            SELECT user_id, count(*) AS {ROWS}, arg_min(best, {rule.sql}) AS best
            FROM ({judged(now, f"{{row: {own.pointer}, fingerprint: {fingerprint}}} AS best")})
            SEMI JOIN (FROM readers WHERE {ROWS} > 1) USING (user_id)
            WHERE {rule.counts} GROUP BY user_id
        )
        SELECT user_id, row, fingerprint, {ROWS} FROM readers WHERE {ROWS} = 1
        UNION ALL
        SELECT user_id, best.row, best.fingerprint, {ROWS} FROM chosen
    """


def _fingerprint(source: Source, wording: Wording) -> str:
    """Make the SQL of a number that another value of a steady trait, or another rule, makes another."""
    return f"hash({text(rule_text((source,), wording))}, {hash_of(source, wording)})"


def hash_of(source: Source, wording: Wording) -> str:
    """Make the SQL of a number made of what the traits of a source are made of."""
    cells = []
    if source.table == "subscriptions":
        cells.append(f"{source.table}.{INVALID}")
    for trait in source.traits:
        column = source.column(trait)
        if not trait.drifts:
            cells.append(column)
        elif trait.thresholds:
            cells.append(wording.step(trait, f"({wording.written(trait, column)})"))
    return f"hash({', '.join(cells) or '0'})"


def rule_text(sources: tuple[Source, ...], wording: Wording) -> str:
    """Put into words how values become text: the very SQL, and the program that runs it and knows the time zones."""
    made = [(trait, source.column(trait)) for source in sources for trait in source.traits]
    written = (
        f"{trait.name} {wording.written(trait, column)} {trait.thresholds if trait.drifts else ''}"
        for trait, column in made
    )
    return "\n".join([duckdb.__version__, *written])
