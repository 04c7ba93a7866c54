"""Piano's API, its log, the ledger and what Engage acknowledged, side by side: the missing set, not only the failed.

Statuses are compared word by word of the map in :mod:`.statuses`, for API and log spell them differently. All of it is
relations; what leaves the database are counts, and as many rows of each difference as are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text
from piano_engage_common.stops import NoInput

from target_recurly_engage.delivery.overlap import overlap_of
from target_recurly_engage.erased import is_erased
from target_recurly_engage.plan import ageing_of, make_plan
from target_recurly_engage.statuses import canonical, meaning_of, word_of
from target_recurly_engage.streams import RECONCILE_ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger

SIDES: Final = ("api", "log", "desired", "acknowledged")
"""Of the first two subscriptions are counted, of the others readers, by the subscription that speaks for them."""

_NOT_SENT: Final = "(not sent)"
"""Stands for status and term of readers where the settings do not have them sent."""
_CLEARED: Final = "(no subscription)"
_COMPARED: Final = ("status", "term", "reader", "auto_renew")


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of differences.

    Attributes:
        title: in words.
        sql: of its rows.
        explained: SQL of a condition on a row that is as it should be, and does not count as a difference.
    """

    title: str
    sql: str
    explained: str = "false"


def reconcile(
    ledger: Ledger, contract: Contract, config: Mapping[str, Any], *, now: str, limit: int | None
) -> dict[str, Any]:
    """Compare all sides; nothing in the ledger changes. To be called inside a trial.

    Args:
        ledger: the ledger; its table ``api_subscriptions``, or one that shadows it, is the side of the API.
        contract: what is sent, and how.
        config: the target's settings.
        now: the moment that counts as now, as ISO 8601.
        limit: rows of each list; None is all of them.

    Returns:
        ``newest`` (how new each side is), ``totals``, ``by_lifecycle``, ``by_status``, ``by_term`` (a count for each of
        :data:`SIDES`), ``lists`` (title, count, rows), ``differences`` (their number without the explained ones).

    Raises:
        NoInput: nothing is known of Piano's API.
    """
    if not ledger.count("SELECT count(*) FROM api_subscriptions"):
        msg = (
            f"the ledger holds nothing of Piano's API: give a stream of subscriptions the role {RECONCILE_ROLE} in the "
            "setting streams and run the tap, or pipe it in: tap-piano … | recurly-engage reconcile --from -"
        )
        raise NoInput(msg)
    clock = datetime.now(tz=UTC)
    ageing = ageing_of(config)
    make_plan(ledger, contract, now=now, clock=clock.isoformat(), delivery_id="none", ageing=ageing)
    _mark_in_flight(ledger, config, clock)
    _prepare(ledger, contract)
    lists, differences = {}, 0
    for key, listing in _listings(ledger, contract).items():
        count, explained = _counted(ledger, listing)
        differences += count - explained
        lists[key] = {"title": listing.title, "count": count, "rows": _rows(ledger, listing, limit)}
    statuses = _counts(ledger, "status")
    return {
        "newest": _newest(ledger, now),
        "done": "written into the folder" if config["delivery"] == "file" else "acknowledged by Engage",
        "totals": {side: sum(counts[side] for counts in statuses.values()) for side in SIDES},
        "by_lifecycle": _by_lifecycle(statuses),
        "by_status": statuses,
        "by_term": _counts(ledger, "term"),
        "term_names": _term_names(ledger),
        "lists": {key: one for key, one in lists.items() if one["count"]},
        "differences": differences,
    }


def _mark_in_flight(ledger: Ledger, config: Mapping[str, Any], clock: datetime) -> None:
    """Make the table of readers who wait for a file; empty where nobody has to."""
    overlap = overlap_of(config)
    overlap.mark(ledger, clock)
    if overlap.again or config["delivery"] == "file":
        ledger.connection.execute("DELETE FROM in_flight")


def _prepare(ledger: Ledger, contract: Contract) -> None:
    """Make the tables that counts and lists are made of: ``sides``, ``readers_desired``, ``piano``."""
    execute = ledger.connection.execute
    status = "coalesce(nullif(trim(api_status), ''), api_status_name)"
    log_word, api_word = canonical(word_of("subscription_status")), canonical(word_of(status))
    term = "coalesce(nullif(term_id, ''), nullif(term_name, ''))"
    cells = f"subscription_id, user_id AS reader, {term} AS term, auto_renew, start_date"
    execute(f"""
        CREATE OR REPLACE TEMP TABLE sides AS
        SELECT subscription_id, api.subscription_id IS NOT NULL AS in_api, log.subscription_id IS NOT NULL AS in_log,
               {", ".join(f"{side}.{one} AS {side}_{one}" for side in ("api", "log") for one in _COMPARED)},
               coalesce(api.start_date, log.start_date) AS start_date
        FROM (SELECT {cells}, {api_word} AS status FROM api_subscriptions) AS api
        FULL JOIN (SELECT {cells}, {log_word} AS status FROM subscriptions) AS log USING (subscription_id)
    """)
    counts = f"SELECT user_id, bool_or({contract.primary.counts}) AS counts FROM subscriptions GROUP BY user_id"
    users = "".join(f" UNION SELECT {name(one.user_id)} FROM {one.table}" for one in contract.users
                    if ledger.columns(one.table))  # fmt: skip
    execute(f"CREATE OR REPLACE TEMP TABLE of_log AS {counts}")
    execute(
        "CREATE OR REPLACE TEMP TABLE piano AS SELECT DISTINCT user_id FROM "
        f"(SELECT user_id FROM of_log UNION SELECT user_id FROM api_subscriptions{users})"
    )
    planned, told = _reader_cells(ledger, contract, "plan"), _reader_cells(ledger, contract, "delivered")
    execute(f"CREATE OR REPLACE TEMP TABLE readers_acknowledged AS SELECT user_id, {told} FROM delivered")
    execute(f"""
        CREATE OR REPLACE TEMP TABLE readers_desired AS
        SELECT user_id, {planned} FROM plan
        UNION ALL
        FROM readers_acknowledged ANTI JOIN plan USING (user_id)
    """)


def _reader_cells(ledger: Ledger, contract: Contract, table: str) -> str:
    """Make the SQL of status and term of a reader, as Engage is told them; NULL where it is told of no subscription."""
    columns = ledger.columns(table)
    traits = {trait.key: trait for trait in contract.own if trait.name in columns}
    telling = traits.get("subscription_id") or traits.get("subscription_status")
    gone = f"{name(telling.name)} = {text(contract.wording.clear_value(telling))}" if telling else "false"
    cells = []
    for key, cell in (("subscription_status", "status"), ("term_id", "term")):
        if key not in traits:
            cells.append(f"{text(_NOT_SENT)} AS {cell}")
            continue
        column, clear = name(traits[key].name), text(contract.wording.clear_value(traits[key]))
        value = canonical(word_of(column)) if cell == "status" else column
        blank = f"WHEN {gone} THEN {text(_CLEARED)} WHEN {column} = {clear} THEN ''"
        cells.append(f"CASE WHEN {column} IS NULL THEN NULL {blank} ELSE {value} END AS {cell}")
    return ", ".join(cells)


# Counts


def _counts(ledger: Ledger, cell: str) -> dict[str, dict[str, int]]:
    """Count by status or term, of each side."""
    sources = {
        "api": f"SELECT api_{cell} AS cell FROM sides WHERE in_api",
        "log": f"SELECT log_{cell} AS cell FROM sides WHERE in_log",
        "desired": f"SELECT {cell} AS cell FROM readers_desired WHERE {cell} IS NOT NULL",
        "acknowledged": f"SELECT {cell} AS cell FROM readers_acknowledged WHERE {cell} IS NOT NULL",
    }
    found: dict[str, dict[str, int]] = {}
    for side, source in sources.items():
        query = f"SELECT coalesce(nullif(cell, ''), '(none)'), count(*) FROM ({source}) GROUP BY 1 ORDER BY 1"
        for value, count in ledger.connection.execute(query).fetchall():
            found.setdefault(value, dict.fromkeys(SIDES, 0))[side] = count
    return dict(sorted(found.items()))


def _by_lifecycle(statuses: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Add the words of one meaning up."""
    found: dict[str, dict[str, int]] = {}
    for word, counts in statuses.items():
        meaning = word if word.startswith("(") else meaning_of(word) or "unknown"
        sums = found.setdefault(meaning, dict.fromkeys(SIDES, 0))
        for side, count in counts.items():
            sums[side] += count
    return found


def _term_names(ledger: Ledger) -> dict[str, str]:
    query = (
        "SELECT term_id, max(term_name) FROM (SELECT term_id, term_name FROM subscriptions UNION ALL "
        "SELECT term_id, term_name FROM api_subscriptions) WHERE term_id <> '' AND term_name <> '' GROUP BY 1"
    )
    return dict(ledger.connection.execute(query).fetchall())


def _newest(ledger: Ledger, now: str) -> dict[str, str | None]:
    """Say how new each side is: the newest change in it that is not still to come."""
    queries = {
        "api": "SELECT coalesce(max(read_at), max(start_date) FILTER (start_date <= moment)) FROM api_subscriptions",
        "log": (
            "SELECT max(coalesce(modify_time, start_date)) FILTER (coalesce(modify_time, start_date) <= moment) "
            "FROM subscriptions"
        ),
        "acknowledged": "SELECT max(acknowledged_at) FROM deliveries",
    }
    found = {}
    for side, query in queries.items():
        moment = f"CROSS JOIN (SELECT {text(now)}::TIMESTAMPTZ AS moment)"
        ((newest,),) = ledger.connection.execute(
            f"SELECT newest::VARCHAR FROM ({query} {moment}) AS t(newest)"
        ).fetchall()
        found[side] = newest
    runs = ledger.connection.execute(
        "SELECT started_at::VARCHAR || ', ' || status FROM runs ORDER BY started_at DESC LIMIT 1"
    ).fetchall()
    return found | {"last_run": runs[0][0] if runs else None}


# Differences


def _listings(ledger: Ledger, contract: Contract) -> dict[str, Listing]:
    newest = "SELECT max(coalesce(modify_time, start_date)) FROM subscriptions"
    later = f"CASE WHEN start_date > ({newest}) THEN 'began after the newest change in the log' END"
    found = {
        "in_api_not_in_log": Listing(
            "in the API, not in the log",
            f"SELECT subscription_id, api_reader AS user_id, api_status AS status, start_date, {later} AS why "
            "FROM sides WHERE NOT in_log",
        ),
        "in_log_not_in_api": Listing(
            "in the log, not in the API",
            "SELECT subscription_id, log_reader AS user_id, log_status AS status, start_date "
            "FROM sides WHERE NOT in_api",
        ),
    }
    for one in _COMPARED:
        blank = "AND api_status <> ''" if one == "status" else f"AND api_{one} IS NOT NULL AND log_{one} IS NOT NULL"
        found[f"{one}_differs"] = Listing(
            f"{one.replace('_', '-')} differs between API and log",
            f"SELECT subscription_id, log_reader AS user_id, api_{one} AS api, log_{one} AS log FROM sides "
            f"WHERE in_api AND in_log {blank} AND api_{one} <> log_{one}",
        )
    return found | _reader_listings(ledger, contract)


def _reader_listings(ledger: Ledger, contract: Contract) -> dict[str, Listing]:
    due = """
        SELECT user_id, CASE
            WHEN next_at = 'infinity' THEN 'rejected with ' || status || ' ' || reason || ', and given up'
            WHEN status IS NOT NULL THEN 'rejected with ' || status || ' ' || reason || ', again after ' || next_at
            WHEN until IS NOT NULL THEN 'waiting for a file that counts as unread until ' || until
            ELSE 'planned' END AS why
        FROM (SELECT user_id FROM plan) LEFT JOIN rejects USING (user_id) LEFT JOIN in_flight USING (user_id)
    """
    told = " OR ".join(
        f"{name(trait.name)} <> {text(contract.wording.clear_value(trait))}"
        for trait in contract.traits
        if trait.name in ledger.columns("delivered")
    )
    return {
        "not_acknowledged": Listing(
            "desired, and never delivered", f"FROM ({due}) ANTI JOIN delivered USING (user_id)"
        ),
        "behind": Listing(
            "delivered with other values than are desired now",
            f"FROM ({due}) SEMI JOIN delivered USING (user_id) SEMI JOIN piano USING (user_id)",
        ),
        "invalid": Listing(
            "desired, and cannot be sent: counts as absent", "SELECT user_id, trait, reason AS why FROM invalid"
        ),
        "unknown_to_piano": Listing(
            "delivered, and unknown to Piano",
            f"SELECT user_id, CASE WHEN {is_erased('user_id')} THEN 'erased: a run clears him' "
            "WHEN user_id IN (SELECT user_id FROM plan) THEN 'planned: the next run clears him' END AS why "
            f"FROM delivered ANTI JOIN piano USING (user_id) WHERE coalesce({told or 'false'}, false)",
            "coalesce(why LIKE 'erased%', false)",
        ),
        "left_out": Listing(
            "left out by the rule of the settings (leave_out, site_licences)",
            "SELECT user_id FROM of_log WHERE NOT counts",
            "true",
        ),
    }


def _counted(ledger: Ledger, listing: Listing) -> tuple[int, int]:
    """Count the rows of a list, and those of them that are as they should be."""
    query = f"SELECT count(*), count_if({listing.explained}) FROM ({listing.sql})"
    ((count, explained),) = ledger.connection.execute(query).fetchall()
    return int(count), int(explained or 0)


def _rows(ledger: Ledger, listing: Listing, limit: int | None) -> list[dict[str, Any]]:
    bound = "" if limit is None else f" LIMIT {limit}"
    found = ledger.connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({listing.sql}) ORDER BY ALL{bound}")
    names = [column for column, *_ in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


# Words


def words_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Put the comparison into words."""
    totals, newest = found["totals"], found["newest"]
    yield f"subscriptions: {totals['api']:,} in the API, {totals['log']:,} in the log"
    yield f"readers: {totals['desired']:,} desired, {totals['acknowledged']:,} {found['done']}"
    yield f"newest: API {newest['api']}, log {newest['log']}, delivery {newest['acknowledged']}"
    yield f"last run: {newest['last_run'] or 'none'}"
    yield from _table("lifecycle", found["by_lifecycle"])
    yield from _table("status", found["by_status"])
    names = found["term_names"]
    yield from _table("term", {f"{term} {names.get(term, '')}": counts for term, counts in found["by_term"].items()})
    for one in found["lists"].values():
        yield f"{one['title']}: {one['count']:,}"
        for row in one["rows"]:
            yield "  " + ", ".join(str(cell) for cell in row.values() if cell is not None)
        if more := one["count"] - len(one["rows"]):
            yield f"  … and {more:,} more (--limit, --json)"
    if not found["differences"]:
        yield "all sides agree"


def _table(title: str, rows: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    yield f"{title:36} {'API':>10} {'log':>10} {'desired':>10} {'delivered':>13}"
    for label, counts in rows.items():
        api, log, desired, acknowledged = (counts[side] for side in SIDES)
        yield f"  {label[:34]:34} {api:>10,} {log:>10,} {desired:>10,} {acknowledged:>13,}"
