"""The JSON schema of the subscription log, made from the table of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singer_sdk import typing as th

from tap_piano.columns import Column, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

_JSON_TYPES: dict[Kind, type[th.JSONTypeHelper[Any]]] = {
    Kind.TEXT: th.StringType,
    Kind.TIMESTAMP: th.DateTimeType,
    Kind.BOOLEAN: th.BooleanType,
    Kind.MONEY: th.NumberType,
    Kind.INTEGER: th.IntegerType,
}


def _describe(column: Column) -> str:
    notes = [f"Column {column.header!r} of the subscription log"]
    if column.group not in {"DEFAULT", "unknown"}:
        notes.append(f"attribute group {column.group}")
    notes += [
        words
        for words, applies in (
            ("unknown to this tap, kept as text", column.group == "unknown"),
            ("one of the 30 traits", column.trait),
            ("personal", column.personal),
            ("drifts daily", column.drifts),
        )
        if applies
    ]
    return "; ".join(notes) + "."


def log_schema(columns: Iterable[Column], *, with_aid: bool) -> dict[str, Any]:
    """Make the JSON schema of the subscription log from its columns."""
    properties = [
        th.Property(column.name, _JSON_TYPES[column.kind], description=_describe(column)) for column in columns
    ]
    if with_aid:
        properties.insert(0, th.Property("aid", th.StringType, description="Application id, from the setting `aid`."))
    return th.PropertiesList(*properties).to_dict()
