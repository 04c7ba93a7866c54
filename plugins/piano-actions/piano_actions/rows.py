"""A subscription from the Publisher API in the shape of the ledger's table ``subscriptions``.

What the API does not give is NULL here; :mod:`piano_actions.traits` takes it over from the ledger where that knows it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import connect, name
from target_recurly_engage.eligibility import CUSTOMERS
from target_recurly_engage.primary import TAKES_OVER
from target_recurly_engage.traits import SQL_TYPES, TRAITS

from piano_actions.subscriptions import Subscription, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duckdb import DuckDBPyConnection
    from target_recurly_engage.primary import PrimaryRule

_GIVEN: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "subscription_id": lambda one: one["subscription_id"],
    "create_date": lambda one: moment(one.get("create_date")),
    "start_date": lambda one: moment(one.get("start_date")),
    "end_date": lambda one: moment(one.get("end_date")),
    "subscription_status": lambda one: one.get("status_name") or one.get("status"),
    "trial_period_end_date": lambda one: moment(one.get("trial_period_end_date")),
    "auto_renew": lambda one: one.get("auto_renew") is True,
    "next_billing_date": lambda one: moment(one.get("next_bill_date")),
    "currently_in_grace_period": lambda one: one.get("in_grace_period") is True,
    "resource_id": lambda one: (one.get("resource") or {}).get("rid"),
    "resource_name": lambda one: (one.get("resource") or {}).get("name"),
    "term_id": lambda one: (one.get("term") or {}).get("term_id"),
    "term_name": lambda one: (one.get("term") or {}).get("name"),
    "term_type": lambda one: (one.get("term") or {}).get("type_name"),
}
"""Columns that `subscription/get` gives, and how."""

GIVEN: Final = tuple(_GIVEN)


def row_of(item: dict[str, Any]) -> dict[str, Any]:
    """Give the columns of one subscription that the API knows."""
    return {column: read(item) for column, read in _GIVEN.items()}


def insert(connection: DuckDBPyConnection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Put rows into *table*, which is made like ``subscriptions``; columns that a row lacks stay NULL.

    Rows with the same columns go in one statement, for a statement takes longer than a row.
    """
    alike: dict[tuple[str, ...], list[Any]] = {}
    for row in rows:
        alike.setdefault(tuple(row), []).append(list(row.values()))
    for columns, found in alike.items():
        places = f"({', '.join('?' for _ in columns)})"
        query = f"INSERT INTO {table} ({', '.join(map(name, columns))}) VALUES {', '.join([places] * len(found))}"
        connection.execute(query, list(chain.from_iterable(found)))


def primary_of(
    connection: DuckDBPyConnection, rule: PrimaryRule, candidates: Iterable[Subscription], now: int
) -> str | None:
    """Choose among candidates by the target's rule; None where the settings leave all of them out.

    The API does not say when access ends, so a criterion on that goes by the next billing date or the end here.

    Args:
        connection: of DuckDB, for the rule is SQL.
        rule: the rule.
        candidates: from which to choose.
        now: epoch seconds at which to judge.
    """
    columns = ", ".join(f"{name(trait.name)} {SQL_TYPES[trait.kind]}" for trait in TRAITS)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE candidates (user_id VARCHAR, {columns})")
    rows = [row_of(one.item) for one in candidates]
    for row in rows:
        row["access_expiration_date"] = row["next_billing_date"] or row["end_date"]
    insert(connection, "candidates", rows)
    found = connection.execute(
        f"SELECT subscription_id FROM candidates CROSS JOIN (SELECT to_timestamp(?) AS moment, false AS {TAKES_OVER}) "
        f"WHERE {rule.counts} ORDER BY {rule.sql} LIMIT 1",
        [now],
    ).fetchall()
    connection.execute("DROP TABLE candidates")
    return str(found[0][0]) if found else None


def is_customer(items: Iterable[dict[str, Any]], new_customers: str) -> bool:
    """Return whether a user is no new customer to a promotion, by the very SQL of the target.

    Args:
        items: the user's subscriptions, as the API lists them. It says how often each was charged, and not how much.
        new_customers: the target's setting.
    """
    columns = ", ".join(f"{name(trait.name)} {SQL_TYPES[trait.kind]}" for trait in TRAITS)
    rows = [row_of(one) | {"total_charged": int(one.get("charge_count") or 0)} for one in items]
    with connect() as connection:
        connection.execute(f"CREATE TABLE held ({columns})")
        insert(connection, "held", rows)
        query = f"SELECT coalesce(bool_or({CUSTOMERS[new_customers]}), false) FROM held"
        ((found,),) = connection.execute(query).fetchall()
    return bool(found)
