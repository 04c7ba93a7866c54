"""Traits of the user's own: formulas in SQL, and questions to one and the same subscription, checked at start-up."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import duckdb
from piano_engage_common.duck import name, text

from target_recurly_engage.computed import LIVES_COLUMNS, Formula
from target_recurly_engage.problems import suggestion
from target_recurly_engage.traits import NAMES, SQL_TYPES, TRAITS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
_MEMBERS: Final = ("name", "type", "sql", "has_active", "has_had", "description", "thresholds", "clear")
_ASKABLE: Final = (*NAMES, "stage")
_READS_ELSEWHERE: Final = {
    "SUBQUERY": "no SELECT", "TABLE_FUNCTION": "no SELECT", "WINDOW": "no OVER",
}  # fmt: skip
"""What would read rows of others, by the class or the type that DuckDB has for it."""
_MAKES_ROWS: Final = frozenset({"unnest", "generate_subscripts"})


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
    sql, kind = str(given["sql"]), Kind(given["type"])
    try:
        tree = _parsed(sql)
    except ValueError as e:
        problems.add(f"{path}.sql", f"cannot be parsed: {e}")
        return None
    if wrong := _misuse(tree):
        problems.add(f"{path}.sql", wrong)
        return None
    cast = "DATE" if kind is Kind.DATE else SQL_TYPES[kind]
    try:
        with duckdb.connect(config={"enable_external_access": "false"}) as connection:
            columns = ", ".join(f"{name(column)} {kind}" for column, kind in _LIVES_TYPES.items())
            connection.execute(f"CREATE TABLE lives ({columns})")
            made = connection.execute(f"DESCRIBE SELECT ({sql}) AS value FROM lives GROUP BY user_id, today, moment")
            ((_, found, *_),) = made.fetchall()
            connection.execute(f"SELECT ({sql})::{cast} FROM lives GROUP BY user_id, today, moment").fetchall()
    except duckdb.Error as e:
        complaint = str(e).splitlines()[0].rstrip(".")
        known = ", ".join(LIVES_COLUMNS)
        problems.add(
            f"{path}.sql",
            f"cannot be worked out: {complaint}. It is an aggregate over the rows of one reader, of the log's "
            f"properties and {known}; docs/traits.md has examples",
        )
        return None
    if found == "VARCHAR" and kind is not Kind.STRING:
        problems.add(f"{path}.sql", f"makes a text, and type says {kind}; say type: string")
        return None
    return sql


def _misuse(tree: Any) -> str | None:  # noqa: ANN401 - a tree of DuckDB's
    """Say what a formula does that none may do."""
    for function in _functions(tree):
        if function in _MAKES_ROWS:
            return f"{function}() makes several rows of a reader, who has one value"
        if function in _unsteady():
            return (
                f"{function}() does not always answer the same, so every run would send; there are the columns "
                "today and moment"
            )
    kinds = {kind for node in _nodes(tree) for kind in (node.get("class"), node.get("type")) if isinstance(kind, str)}
    if elsewhere := sorted(kinds & set(_READS_ELSEWHERE)):
        return f"may read the subscriptions of one reader only, so it takes {_READS_ELSEWHERE[elsewhere[0]]}"
    return None


def _parsed(sql: str) -> Any:  # noqa: ANN401 - a tree of DuckDB's
    with duckdb.connect() as connection:
        # Alone on its line, so that a comment in it ends before the alias, and cannot hide it.
        ((answer,),) = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{sql}\n) AS value"]).fetchall()
    tree = json.loads(answer)
    if tree.get("error"):
        complaint = str(tree.get("error_message", "")).splitlines()[0]
        raise ValueError("it ends before it is complete" if complaint.endswith(_AT_ALIAS) else complaint)
    statements = tree.get("statements", [])
    node = statements[0]["node"] if len(statements) == 1 else {}
    if len(node.get("select_list", [])) != 1 or node["from_table"]["type"] != "EMPTY" or node.get("where_clause"):
        msg = "it is not one expression"
        raise ValueError(msg)
    return node["select_list"][0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a tree of DuckDB's
    if isinstance(tree, dict):
        yield tree
        for member in tree.values():
            yield from _nodes(member)
    elif isinstance(tree, list):
        for member in tree:
            yield from _nodes(member)


def _functions(tree: Any) -> Iterator[str]:  # noqa: ANN401 - a tree of DuckDB's
    for node in _nodes(tree):
        if node.get("class") == "FUNCTION":
            yield str(node.get("function_name", "")).lower()
        elif node.get("class") == "COLUMN_REF" and len(node.get("column_names", [])) == 1:
            yield str(node["column_names"][0]).lower()  # current_date and its like are written without brackets


@cache
def _unsteady() -> frozenset[str]:
    """Name the functions whose answer is not made of what they are asked alone."""
    query = (
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
        "WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
    )
    with duckdb.connect() as connection:
        found = {function for (function,) in connection.execute(query).fetchall()}
    return frozenset(found - set(_LIVES_TYPES)) | {"current_date", "current_timestamp", "localtimestamp"}
