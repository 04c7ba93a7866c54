"""Traits of the user's own: formulas in SQL, and questions to one and the same subscription, checked at start-up."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import duckdb
from piano_engage_common.duck import connect, name, text

from target_recurly_engage.computed import LIVES_COLUMNS, Formula
from target_recurly_engage.functions import misuse
from target_recurly_engage.problems import suggestion
from target_recurly_engage.traits import NAMES, SQL_TYPES, TRAITS, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.problems import Problems

_LIVES_TYPES: Final = (
    {"aid": "VARCHAR", "user_id": "VARCHAR", "modify_time": "TIMESTAMPTZ"}
    | {trait.name: SQL_TYPES[trait.kind] for trait in TRAITS}
    | dict.fromkeys(LIVES_COLUMNS, "BOOLEAN")
    | {"word": "VARCHAR", "stage": "VARCHAR", "moment": "TIMESTAMPTZ", "days_added": "BIGINT"}
    | {column: "DATE" for column in LIVES_COLUMNS if column == "today" or column.endswith("_day")}
)
_AT_ALIAS: Final = 'at or near "AS"'
"""The end of what DuckDB says where it stumbles over what stands behind a formula."""
_PLAIN: Final = re.compile(r"\"?[A-Z_0-9 ]+\"?(\(\d+,\d+\))?")
"""Types of single values, as DuckDB spells them: a list, a struct, or the state of an aggregate has brackets."""
_PLACES: Final = frozenset({"query_location", "query_location_length"})
_MEMBERS: Final = ("name", "type", "sql", "has_active", "has_had", "description", "thresholds", "clear")
_ASKABLE: Final = (*NAMES, "stage")


def formula_of(path: str, given: Mapping[str, Any], problems: Problems) -> Formula | None:
    """Read an entry of the setting ``traits`` that is no name; None, with the problems noted, when it is no trait."""
    before = len(problems.found)
    for member in given:
        if member not in _MEMBERS:
            problems.add(f"{path}.{member}", f"no member of a trait{suggestion(member, _MEMBERS)}")
    ways = [one for one in ("sql", "has_active", "has_had") if one in given]
    if len(ways) != 1:
        problems.add(path, "takes one of sql, has_active and has_had")
    for needed in ("name", *(["type"] if "sql" in given else [])):
        if not isinstance(given.get(needed), str):
            problems.add(f"{path}.{needed}", "is missing")
    kinds = [kind.value for kind in Kind]
    if isinstance(given.get("type"), str) and given["type"] not in kinds:
        problems.add(f"{path}.type", f"{given['type']!r} is no type{suggestion(given['type'], kinds)}")
    thresholds = given.get("thresholds")
    if thresholds is not None and not _are_numbers(thresholds):
        problems.add(f"{path}.thresholds", "takes a list of numbers, like [30, 90]")
    if len(problems.found) > before:
        return None
    asked = () if "sql" in given else _question(path, ways[0], given[ways[0]], problems)
    made = _sql(path, given, problems) if "sql" in given else compound(asked)
    if made is None or len(problems.found) > before:
        return None
    return Formula(
        name=given["name"], kind=Kind(given["type"]) if "sql" in given else Kind.BOOLEAN, sql=made, of_all=True,
        meaning=str(given.get("description", "")), clear=None if given.get("clear") is None else str(given["clear"]),
        asks=asked,
        thresholds=None if thresholds is None else tuple(sorted(float(one) for one in thresholds)),
    )  # fmt: skip


def _are_numbers(given: object) -> bool:
    return isinstance(given, list) and not any(isinstance(one, bool | str) or one is None for one in given)


def _question(path: str, way: str, given: object, problems: Problems) -> tuple[str, ...]:
    """Make the SQL of the conditions that one and the same subscription must meet; none where it makes no sense."""
    if not isinstance(given, dict) or not given:
        problems.add(f"{path}.{way}", "takes properties with lists of values, such as {term_id: [TM1, TM2]}")
        return ()
    asked = ["live"] if way == "has_active" else []
    for column, values in given.items():
        if column not in _ASKABLE:
            problems.add(f"{path}.{way}.{column}", f"no property of a subscription{suggestion(column, _ASKABLE)}")
        elif not isinstance(values, list) or not values:
            problems.add(f"{path}.{way}.{column}", "takes a list of values")
        else:
            written = ", ".join(text(str(one).lower() if isinstance(one, bool) else str(one)) for one in values)
            asked.append(f"{name(column)}::VARCHAR IN ({written})")
    return tuple(asked)


def compound(asked: tuple[str, ...]) -> str:
    """Make the SQL that says whether one and the same subscription meets all conditions."""
    return f"coalesce(bool_or({' AND '.join(asked) or 'false'}), false)"


def _sql(path: str, given: Mapping[str, Any], problems: Problems) -> str | None:
    """Check a formula against an empty ``lives``, in a database that can reach nothing."""
    sql, kind = given["sql"], Kind(given["type"])
    if not isinstance(sql, str):
        problems.add(f"{path}.sql", "takes a text")
        return None
    try:
        wrong = misuse(_parsed(sql), _LIVES_TYPES)
    except (ValueError, duckdb.Error) as e:
        wrong = f"cannot be parsed: {str(e).splitlines()[0]}"
    except RecursionError:
        wrong = "cannot be parsed: it is nested too deep"
    if not wrong:
        wrong = _complaint(sql, kind)
    if wrong:
        problems.add(f"{path}.sql", wrong)
        return None
    return sql


def _complaint(sql: str, kind: Kind) -> str | None:
    """Return what DuckDB has against a formula, or that it makes another type than *kind*."""
    cast = "DATE" if kind is Kind.DATE else SQL_TYPES[kind]
    try:
        with connect() as connection:
            connection.execute("SET enable_external_access = false")
            columns = ", ".join(f"{name(column)} {kind}" for column, kind in _LIVES_TYPES.items())
            connection.execute(f"CREATE TABLE lives ({columns})")
            made = connection.execute(
                f"DESCRIBE SELECT (\n{sql}\n) AS value FROM lives GROUP BY user_id, today, moment"
            )
            ((_, found, *_),) = made.fetchall()
            connection.execute(f"SELECT (\n{sql}\n)::{cast} FROM lives GROUP BY user_id, today, moment").fetchall()
    except duckdb.Error as e:
        complaint = str(e).splitlines()[0].rstrip(".")
        known = ", ".join(LIVES_COLUMNS)
        return (
            f"cannot be worked out: {complaint}. It is an aggregate over the rows of one reader, of the log's "
            f"properties and {known}; docs/traits.md has examples"
        )
    if found == "VARCHAR" and kind is not Kind.STRING:
        return f"makes a text, and type says {kind}; say type: string"
    if not _PLAIN.fullmatch(found):
        return f"makes {found}, which is no single value"
    return None


def _parsed(sql: str) -> Any:  # noqa: ANN401 - a tree of DuckDB's
    """Return the tree of an expression.

    Raises:
        ValueError: it is none, or something else beside it.
    """
    with connect() as connection:
        tree, frame = (_tree(connection, one) for one in (sql, "NULL"))
    found, _ = tree.pop("select_list", []), frame.pop("select_list")
    if len(found) != 1 or tree != frame:
        msg = "it is not one expression"
        raise ValueError(msg)
    if found[0].get("function_name") == "row" and not any(found[0].get(one) for one in ("children", "arguments")):
        msg = "it is empty"
        raise ValueError(msg)
    return found[0]


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """Return the tree of a query of one expression, without the places of its words."""
    # Alone on its line, so that a comment in it ends before the alias, and cannot hide it.
    ((answer,),) = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{sql}\n) AS value"]).fetchall()
    tree = json.loads(
        answer, object_pairs_hook=lambda pairs: {one: value for one, value in pairs if one not in _PLACES}
    )
    if tree.get("error"):
        complaint = (str(tree.get("error_message", "")).splitlines() or [""])[0]
        raise ValueError("it ends before it is complete" if complaint.endswith(_AT_ALIAS) else complaint)
    statements = tree.get("statements", [])
    return dict(statements[0]["node"]) if len(statements) == 1 else {}
