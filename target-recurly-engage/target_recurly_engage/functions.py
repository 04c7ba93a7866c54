"""What a formula of the user's own may be made of: functions that give the same answer to the same rows, and no more.

A list of what is allowed, not of what is not: the engine has a thousand functions, judges some of them by the types
they are called with, and gets more with each version.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import connect

from target_recurly_engage.problems import suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

OPERATORS: Final = frozenset({"+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "^@"})
"""Comparisons, ``AND``, ``CASE``, ``CAST`` and the like are no functions to DuckDB: see :data:`_PARTS`."""

AGGREGATES: Final = (
    "count", "count_if", "sum", "avg", "min", "max", "bool_and", "bool_or", "arg_min", "arg_max", "min_by", "max_by",
    "median", "quantile_cont", "quantile_disc", "product", "stddev", "stddev_pop", "stddev_samp", "variance", "var_pop",
    "var_samp",
)  # fmt: skip

ORDERED: Final = ("any_value", "first", "last", "list", "mode", "string_agg")
"""Aggregates whose answer depends on the order of the rows, which is another after each run."""

SCALARS: Final = (
    # numbers
    "abs", "ceil", "floor", "round", "trunc", "sign", "mod", "sqrt", "ln", "log10", "exp", "pow", "greatest", "least",
    # texts
    "chr", "concat", "concat_ws", "contains", "ends_with", "left", "length", "lower", "ltrim", "md5", "regexp_extract",
    "regexp_full_match", "regexp_matches", "regexp_replace", "replace", "reverse", "right", "rtrim", "sha256",
    "split_part", "starts_with", "string_split", "strpos", "substring", "trim", "upper",
    # days and moments
    "century", "date_diff", "date_part", "date_sub", "date_trunc", "datediff", "datepart", "datetrunc", "day",
    "dayname", "dayofmonth", "dayofweek", "dayofyear", "decade", "epoch", "epoch_ms", "epoch_us", "hour", "isodow",
    "isoyear", "last_day", "make_date", "make_timestamp", "minute", "month", "monthname", "quarter", "second",
    "strftime", "timezone", "to_days", "to_hours", "to_minutes", "to_months", "to_seconds", "to_weeks", "to_years",
    "try_strptime", "week", "weekday", "weekofyear", "year", "yearweek",
    # the rest
    "if", "list_contains", "list_distinct", "list_sort", "list_value", "len", "nullif", "struct_pack",
)  # fmt: skip

ALLOWED: Final = frozenset({*OPERATORS, *AGGREGATES, *ORDERED, *SCALARS, "count_star"})
"""``count_star`` is what ``count(*)`` is to DuckDB."""

_PARTS: Final = frozenset({
    "FUNCTION", "COLUMN_REF", "VALUE_CONSTANT", "TYPE", "CASE_EXPR", "OPERATOR_CAST", "OPERATOR_NOT", "OPERATOR_TRY",
    "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "CONJUNCTION_AND", "CONJUNCTION_OR",
    "COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_LESSTHAN", "COMPARE_GREATERTHAN", "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO", "COMPARE_IN", "COMPARE_NOT_IN", "COMPARE_DISTINCT_FROM",
    "COMPARE_NOT_DISTINCT_FROM", "COMPARE_BETWEEN", "COMPARE_NOT_BETWEEN", "ARRAY_EXTRACT", "STRUCT_EXTRACT",
})  # fmt: skip
"""Types, as DuckDB has them, of the parts of which a formula may be made."""

_REASONS: Final = {
    "SUBQUERY": "may read the subscriptions of one reader only, so it takes no SELECT",
    "WINDOW": "may read the subscriptions of one reader only, so it takes no OVER",
    "STAR": "takes columns by their names: no *, and no COLUMNS()",
    "OPERATOR_UNPACK": "takes columns by their names: no *, and no COLUMNS()",
    "LAMBDA": "takes no lambda",
    "VALUE_PARAMETER": "takes no parameter, such as ? or $1",
    "POSITIONAL_REFERENCE": "takes columns by their names, not by their numbers",
}
_WINDOW: Final = "WINDOW_"
_MAKES_ROWS: Final = frozenset({"unnest", "generate_subscripts"})
_TUPLE: Final = "row"
_PRIMARY: Final = "is_primary"


def misuse(tree: Any, columns: Collection[str]) -> str | None:  # noqa: ANN401 - a tree of DuckDB's
    """Return what a formula is made of that none may be made of; None when all of it may.

    Args:
        tree: the formula, as ``json_serialize_sql`` has it.
        columns: what it may read.
    """
    parts = list(_parts(tree))
    if any(part["type"] == "SUBQUERY" for part in parts):
        return _REASONS["SUBQUERY"]
    for part in parts:
        kind = str(part["type"])
        if kind == "FUNCTION":
            wrong = _misuse_of_function(part)
        elif kind == "COLUMN_REF":
            wrong = _misuse_of_column([str(one) for one in part.get("column_names", [])], columns)
        elif kind.startswith(_WINDOW) or part["class"] == "WINDOW":
            wrong = _REASONS["WINDOW"]
        else:
            wrong = None if kind in _PARTS else _REASONS.get(kind, f"takes no {kind.lower().replace('_', ' ')}")
        if wrong:
            return wrong
    return None


def _parts(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a tree of DuckDB's
    """Yield the expressions of a tree, the outermost first."""
    if isinstance(tree, dict):
        if "class" in tree and "type" in tree:
            yield tree
        for member in tree.values():
            yield from _parts(member)
    elif isinstance(tree, list):
        for member in tree:
            yield from _parts(member)


def _misuse_of_function(part: dict[str, Any]) -> str | None:
    function = str(part.get("function_name", "")).lower()
    if function == _TUPLE:
        return "makes several values of a reader, who has one"
    if function in _MAKES_ROWS:
        return f"{function}() makes several rows of a reader, who has one value"
    if function in ORDERED and not (part.get("order_bys") or {}).get("orders") and not _is_of_primary(part):
        return (
            f"{function}() depends on the order of the rows, so every run might send: write {function}(… ORDER BY "
            f"subscription_id), or take one row with FILTER ({_PRIMARY})"
        )
    if function in ALLOWED:
        return "takes no EXPORT_STATE" if part.get("export_state") else None
    if function in _unsteady():
        return _unsteady_words(function)
    named = sorted(one for one in ALLOWED if one[0].isalpha())
    return f"{function}() is no function of formulas{suggestion(function, named)}; docs/traits.md lists them"


def _is_of_primary(part: dict[str, Any]) -> bool:
    """Whether a function reads the primary subscription alone."""
    filters = [part.get("filter") or {}]
    while filters:
        one = filters.pop()
        if one.get("type") == "COLUMN_REF" and str(one["column_names"][-1]).lower() == _PRIMARY:
            return True
        filters += one.get("children", []) if one.get("type") == "CONJUNCTION_AND" else []
    return False


def _misuse_of_column(names: list[str], columns: Collection[str]) -> str | None:
    """Judge a name without brackets: DuckDB takes some that are no columns for functions, such as ``current_date``."""
    *relation, column = (one.lower() for one in names)
    if column in columns and relation in ([], ["lives"]):
        return None
    if column in _unsteady():
        return _unsteady_words(column)
    return f"there is no column {'.'.join(names)}{suggestion(column, columns)}"


def _unsteady_words(function: str) -> str:
    return (
        f"{function}() does not always answer the same, so every run would send; there are the columns today and moment"
    )


@cache
def _unsteady() -> frozenset[str]:
    """Name the functions whose answer is not made of what they are asked alone, by any of their overloads."""
    query = (
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
        "WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
    )
    with connect() as connection:
        found = {function for (function,) in connection.execute(query).fetchall()}
    return frozenset(found - ALLOWED) | {
        "current_date",
        "current_timestamp",
        "current_time",
        "localtime",
        "localtimestamp",
    }
