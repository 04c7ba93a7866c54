"""One reader's traits at once, by the target's own rules: its tables, filled with him alone, and its own plan.

The ledger is opened read-only and for a moment, for one process at a time may write it. What is needed of it: the
reader's subscriptions (the log knows more of them than the API does), and what Engage was told. What was told since the
last run lies in the folder ``handover_path``.

What neither the API nor the ledger knows of the subscription that speaks for the reader is not told; the nightly run
does that.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
from piano_engage_common.duck import connect, name, text
from target_recurly_engage.delivery.ingest import properties
from target_recurly_engage.erased import is_erased
from target_recurly_engage.handover import Message, moment_of
from target_recurly_engage.ledger import Ledger, in_use
from target_recurly_engage.plan import make_plan
from target_recurly_engage.primary import judged
from target_recurly_engage.shared.place import is_shared
from target_recurly_engage.shared.snapshots import Held, Snapshots
from typing_extensions import override

from piano_actions import rows

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable

    from target_recurly_engage.contract import Contract

DELIVERY: Final = "now"
MEMORY: Final = "200MB"


class LedgerBusy(Exception):  # noqa: N818 - no error: a run is at it
    """A run has the ledger."""


@dataclass(slots=True)
class Known:
    """What the ledger, and what was told since the last run, say of one reader.

    Attributes:
        subscriptions: rows of the ledger's table, by subscription id, dates as DuckDB gives them.
        told: values of traits.
        is_told: Engage was told of him at all.
        is_erased: he was erased, so Engage is told nothing of him.
        kinds: types of the traits of streams of users, as the ledger has them.
        users: his row of each table of a stream of users.
        terms: what other subscriptions of a term say of it: billing period.
    """

    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    is_told: bool = False
    is_erased: bool = False
    kinds: list[tuple[Any, ...]] = field(default_factory=list)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    terms: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def speaker(self) -> dict[str, Any]:
        """The subscription of which Engage was told last, as far as that can be seen."""
        told = set(self.told.values())
        return next((row for row in self.subscriptions.values() if row["subscription_id"] in told), {})


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be told of a reader.

    Attributes:
        properties: as the Ingest API takes them, by trait.
        values: the same as text, as ``delivered`` has it.
    """

    properties: dict[str, Any]
    values: dict[str, str]


Case = tuple[Known, list[Mapping[str, Any]]]
"""What the ledger knows of a reader, and his subscriptions as they are now."""


class Looking:
    """The file to look into: the ledger, or of a shared one its newest version.

    Args:
        config: the target's settings.
        logger: told of what may not be looked at.
    """

    def __init__(self, config: Mapping[str, Any], logger: logging.Logger) -> None:
        """Ask for nothing yet."""
        self._local = None if is_shared(config["ledger"]) else Path(config["ledger"])
        self._shared = Snapshots(config, logger) if self._local is None else None

    def file(self) -> Path | None:
        """Give it; None where there is no ledger yet.

        Raises:
            LedgerBusy: a run holds the shared ledger.
            RunStopped: its bucket cannot be asked.
        """
        if self._shared is None:
            return self._local
        try:
            return self._shared.newest(unheld=True)
        except Held as e:
            raise LedgerBusy from e


def look_up(ledger: Path | None, contract: Contract, user_id: str) -> Known:
    """Ask the ledger about one reader: :func:`look_all_up`."""
    return look_all_up(ledger, contract, [user_id])[user_id]


def look_all_up(ledger: Path | None, contract: Contract, user_ids: Iterable[str]) -> dict[str, Known]:
    """Ask the ledger about readers, read-only and briefly; nothing is known where there is no ledger yet.

    Raises:
        LedgerBusy: a run has it.
        duckdb.Error: it is no ledger.
    """
    found = {user_id: Known() for user_id in user_ids}
    if ledger is None or not ledger.is_file() or not found:
        return found
    try:
        connection = connect(ledger, read_only=True)
    except duckdb.IOException as e:
        if in_use(e):
            raise LedgerBusy from e
        raise
    with connection:
        _look_up(connection, contract, found)
    return found


def _look_up(connection: duckdb.DuckDBPyConnection, contract: Contract, found: dict[str, Known]) -> None:
    kinds = connection.execute("SELECT trait, kind, stream, first_at FROM traits").fetchall()
    periods = "SELECT term_id, mode(billing_period) AS billing_period FROM subscriptions GROUP BY term_id"
    terms = {str(row["term_id"]): row for row in _rows(connection, periods)}
    tables = {table for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    among = f"IN ({', '.join(map(text, found))})"
    for known in found.values():
        known.kinds, known.terms = kinds, terms
    for row in _rows(connection, f"FROM subscriptions WHERE user_id {among}"):
        found[row["user_id"]].subscriptions[str(row["subscription_id"])] = row
    for row in _rows(connection, f"FROM delivered WHERE user_id {among}"):
        known = found[row["user_id"]]
        known.is_told = True
        known.told = {trait: value for trait, value in row.items() if trait not in _NO_TRAITS and value is not None}
    if "erased" in tables:
        asked = f"SELECT user_id FROM (SELECT unnest([{', '.join(map(text, found))}]) AS user_id)"
        for (user_id,) in connection.execute(f"{asked} WHERE {is_erased('user_id')}").fetchall():
            found[user_id].is_erased = True
    for stream in contract.users:
        if stream.table.strip('"') in tables:
            for known in found.values():
                known.users[stream.table] = {}
            key = name(stream.user_id)
            for row in _rows(connection, f"FROM {stream.table} WHERE {key} {among}"):
                found[row[stream.user_id]].users[stream.table] = row


_NO_TRAITS: Final = frozenset({"user_id", "delivery_id", "fingerprint"})


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def add_told(known: Known, messages: Iterable[Message]) -> None:
    """Add what was told since the last run, the oldest first."""
    for message in sorted(messages, key=lambda one: one.at):
        known.is_told = known.is_told or bool(message.traits)
        known.told |= message.traits
        for row in message.subscriptions:
            known.subscriptions[str(row["subscription_id"])] = dict(row)


# The rows


TAKEN_OVER: Final = (
    "days_subscribed", "upgrade_status", "trial_status", "auto_renew_disablement_date", "billing_period",
    "total_charged", "renewed", "grace_period_start_date", "grace_period_extended_to", "access_expiration_date",
    "template_id", "template_name", "offer_id", "offer_name", "promo_code",
)  # fmt: skip
"""Columns that `subscription/get` does not give; they are taken over from the row that is known."""
UNKNOWN: Final = ("total_charged", "template_id", "template_name", "offer_id", "offer_name", "promo_code")
"""Of these, those about which nothing can be said of a subscription that the ledger does not know.

They stay as they were told: of the subscription that spoke for the reader before.
"""
NO_UPGRADE: Final = "No upgrade"
NO_TRIAL: Final = "No trial"


def merged(
    item: dict[str, Any],
    known: Known,
    *,
    aid: str,
    user_id: str,
    read_at: int,
    access_until: str | None,
) -> dict[str, Any]:
    """Make the row of a subscription: what the API says, and of the rest what is known already.

    Args:
        item: as `subscription/get` wrote it.
        known: what the ledger knows.
        aid: the application.
        user_id: the reader.
        read_at: Piano's clock, in epoch seconds.
        access_until: when its access ends, as ISO 8601; None where Piano does not say.
    """
    given = rows.row_of(item)
    before = known.subscriptions.get(given["subscription_id"])
    taken = {column: (before or {}).get(column) for column in TAKEN_OVER}
    if before is None:
        term = known.terms.get(str(given["term_id"])) or {}
        taken |= {column: known.speaker.get(column) for column in UNKNOWN}
        taken |= {"upgrade_status": NO_UPGRADE, "billing_period": term.get("billing_period"), "renewed": False}
        taken["trial_status"] = None if given["trial_period_end_date"] else NO_TRIAL
        start = item.get("start_date")
        taken["days_subscribed"] = max(read_at - start, 0) // 86400 if isinstance(start, int) else None
    if given["auto_renew"]:
        taken["auto_renew_disablement_date"] = None
    elif before is not None and before.get("auto_renew") and not taken["auto_renew_disablement_date"]:
        taken["auto_renew_disablement_date"] = moment_of(read_at)
    if not given["currently_in_grace_period"]:
        taken |= {"grace_period_start_date": None, "grace_period_extended_to": None}
    if access_until:
        taken["access_expiration_date"] = access_until
    elif before is None:
        taken["access_expiration_date"] = given["next_billing_date"] or given["end_date"]
    row = {"aid": aid, "user_id": user_id, **given, **taken, "modify_time": moment_of(read_at)}
    return {column: _plain(value) for column, value in row.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell
    """Give a cell as JSON and DuckDB both take it."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if isinstance(value, str | bool | int | float) or value is None else str(value)


# The traits


class _Scratch(Ledger):
    """An empty ledger in memory and nowhere else: a process that is killed leaves nothing behind."""

    def __init__(self) -> None:
        self.path = self.work = Path(":memory:")
        self.connection = connect(None, spill=self.path, memory_limit=MEMORY)
        self.connection.execute("SET temp_directory = ''")  # a few rows need no more room than that
        self._migrate()

    @override
    def close(self) -> None:
        self.connection.close()


class Reckoner:
    """Works out what to tell of readers; one call at a time, for it is one database.

    Many readers take hardly longer than one: it is the statements that cost, not the rows.

    Args:
        contract: what is sent, and how.
        typed: numbers and booleans go as such.
    """

    def __init__(self, contract: Contract, *, typed: bool) -> None:
        """Make an empty ledger to work on."""
        self._contract = contract
        self._typed = typed
        self._ledger = _Scratch()
        self._ledger.connection.execute("SET threads = 1")  # of a few rows more of them take longer
        self._one_at_a_time = threading.Lock()
        with self._ledger.transaction():  # so that the tables have their columns, and need not get them each time
            moment = moment_of(0)
            make_plan(self._ledger, contract, now=moment, clock=moment, delivery_id=DELIVERY, counted=False)

    def close(self) -> None:
        """Forget it."""
        self._ledger.close()

    def look_up(self, ledger: Path | None, user_ids: Iterable[str]) -> dict[str, Known]:
        """Ask the ledger about readers: :func:`look_all_up`."""
        return look_all_up(ledger, self._contract, user_ids)

    def changes(self, cases: Mapping[str, Case], *, now: int) -> dict[str, Change]:
        """Work out which traits of some readers differ from what Engage was told.

        Args:
            cases: by reader, what the ledger knows of him, and all his rows as they are now.
            now: epoch seconds that count as now.
        """
        moment, changes = moment_of(now), {user_id: Change({}, {}) for user_id in cases}
        with self._one_at_a_time, self._ledger.trial():
            contract = self._fill(cases)
            make_plan(self._ledger, contract, now=moment, clock=moment, delivery_id=DELIVERY, counted=False)
            execute = self._ledger.connection.execute
            told = execute(properties(self._ledger, contract, "plan", typed=self._typed)).fetchall()
            planned = {row["user_id"]: row for row in _rows(self._ledger.connection, "FROM plan")} if told else {}
            blind = self._blind(contract, {user_id: cases[user_id] for user_id, _ in told}, moment)
            for user_id, content in told:
                hidden = _hidden(contract, blind[user_id]) if user_id in blind else set[str]()
                kept = {trait: value for trait, value in json.loads(content).items() if trait not in hidden}
                changes[user_id] = Change(kept, {trait: str(planned[user_id][trait]) for trait in kept})
        return changes

    def _fill(self, cases: Mapping[str, Case]) -> Contract:
        """Let the tables hold these readers, and give the contract with the types that the ledger knows."""
        ledger, execute = self._ledger, self._ledger.connection.execute
        for _, held in cases.values():
            rows.insert(ledger.connection, "subscriptions", [dict(row) for row in held])
        knowns = {user_id: known for user_id, (known, _) in cases.items()}
        if kinds := next((known.kinds for known in knowns.values() if known.kinds), []):
            execute("DELETE FROM traits WHERE list_contains(?, trait)", [[kind[0] for kind in kinds]])
            execute(
                "INSERT INTO traits SELECT unnest(?), unnest(?), unnest(?), unnest(?)",
                list(map(list, zip(*kinds, strict=True))),
            )
        self._fill_users([known.users for known in knowns.values()])
        told = {trait for known in knowns.values() for trait in known.told}
        for trait in sorted(told - set(ledger.columns("delivered"))):
            execute(f"ALTER TABLE delivered ADD COLUMN {name(trait)} VARCHAR")
        delivered = [{"user_id": user_id, **known.told} for user_id, known in knowns.items() if known.is_told]
        rows.insert(ledger.connection, "delivered", delivered)
        return self._contract.with_kinds(ledger.kinds())

    def _fill_users(self, found: list[dict[str, dict[str, Any]]]) -> None:
        for table in sorted({table for one in found for table in one}):
            of_table = [one[table] for one in found if one.get(table)]
            columns = ", ".join(
                f"{name(column)} VARCHAR" for column in dict.fromkeys(c for row in of_table for c in row)
            )
            self._ledger.connection.execute(f"CREATE OR REPLACE TABLE {table} ({columns or 'user_id VARCHAR'})")
            rows.insert(self._ledger.connection, table, of_table)

    def _blind(self, contract: Contract, cases: Mapping[str, Case], moment: str) -> dict[str, set[str]]:
        """Name the columns about which nothing can be said yet, by reader who has a subscription that nobody knew."""
        new = {
            user_id: {str(row["subscription_id"]) for row in held} - set(known.subscriptions)
            for user_id, (known, held) in cases.items()
        }
        readers = [user_id for user_id, ids in new.items() if ids]
        if not readers:
            return {}
        rule = contract.primary
        query = (
            f"SELECT DISTINCT ON (user_id) user_id, subscription_id FROM ({judged(moment)}) "
            f"WHERE user_id IN ({', '.join(map(text, readers))}) AND {rule.counts} ORDER BY user_id, {rule.sql}"
        )
        speakers = dict(self._ledger.connection.execute(query).fetchall())
        return {one: set(UNKNOWN) if speakers.get(one) in new[one] else set() for one in readers}


def _hidden(contract: Contract, blind: set[str]) -> set[str]:
    """Name the traits about which nothing can be said yet of a reader: they ask for what only the log knows.

    Args:
        contract: what is sent, and how.
        blind: columns about which nothing can be said.
    """
    blind = blind | {one.name for one in contract.formulas if _ASKS.search(one.sql)}
    segments = {one.name for one in contract.segments if any(trait.key in blind for trait in one.traits)}
    blind |= {f"told {segment}" for segment in segments}
    blind |= {f"experiment {one.name}" for one in contract.experiments if one.segment in segments}
    blind |= {"segments"} if segments else set()
    return {trait.name for trait in contract.traits if trait.key in blind}


_ASKS: Final = re.compile(rf"\b({'|'.join(UNKNOWN)})\b")
