"""What a property of the Publisher API's streams is, and how an item of Piano's answer becomes a record.

A schema and the conversion are made from the same rows, which stand in `fields.py`.
"""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from singer_sdk import typing as th

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


class Type(StrEnum):
    """What a property holds."""

    TEXT = "text"
    MOMENT = "moment"
    BOOLEAN = "boolean"
    NUMBER = "number"
    INTEGER = "integer"
    TEXTS = "texts"
    OBJECT = "object"
    LIST = "list"


TEXT, MOMENT, BOOLEAN, NUMBER, INTEGER, TEXTS, OBJECT, LIST = Type

UNKNOWN_FIELDS: Final = "unknown_fields"
"""Property that keeps what Piano sends and this tap does not know, or does not find to be what it should be."""


@dataclass(frozen=True, slots=True)
class Field:
    """One property.

    Attributes:
        name: in the Singer schema.
        about: its meaning in half a sentence.
        type: what it holds. Moments are epoch seconds at Piano and ISO 8601 in UTC here.
        source: where it stands in Piano's answer, dots leading inwards; its own name if not given.
        personal: says who a person is or how he pays; leaves only when the setting `columns` names it.
    """

    name: str
    about: str
    _: KW_ONLY
    type: Type = TEXT
    source: str = ""
    personal: bool = False

    @property
    def path(self) -> tuple[str, ...]:
        """The members that lead to it."""
        return tuple((self.source or self.name).split("."))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError


def _moment(value: object) -> str:
    if isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - one kind of error for all that does not fit
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).isoformat()
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    raise ValueError


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[str(value).lower()]


def _number(value: object) -> float | int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        return float(value)
    raise ValueError


def _integer(value: object) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _texts(value: object) -> list[str]:
    if isinstance(value, list):
        return [_text(item) for item in value]
    raise ValueError


def _object(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueError


CONVERSIONS: Final[dict[Type, Callable[[object], Any]]] = {
    TEXT: _text,
    MOMENT: _moment,
    BOOLEAN: _boolean,
    NUMBER: _number,
    INTEGER: _integer,
    TEXTS: _texts,
    OBJECT: _object,
    LIST: _list,
}
_SCHEMAS: Final[dict[Type, th.JSONTypeHelper[Any]]] = {
    TEXT: th.StringType(),
    MOMENT: th.DateTimeType(),
    BOOLEAN: th.BooleanType(),
    NUMBER: th.NumberType(),
    INTEGER: th.IntegerType(),
    TEXTS: th.ArrayType(th.StringType()),
    OBJECT: th.ObjectType(additional_properties=True),
    LIST: th.CustomType({"type": ["array", "null"], "items": {}}),
}


def schema_of(fields: Iterable[Field]) -> dict[str, Any]:
    """Make the JSON schema of a stream."""
    properties = [
        th.Property(field.name, _SCHEMAS[field.type], description=f"{field.about}{'; personal' * field.personal}.")
        for field in fields
    ]
    known = th.Property(
        UNKNOWN_FIELDS,
        th.ObjectType(additional_properties=True),
        description="What Piano sends and this tap does not know, under Piano's names; null when there is nothing.",
    )
    return th.PropertiesList(*properties, known).to_dict()


class Reader:
    """Turns items of Piano's answers into records.

    Args:
        fields: all properties of the stream.
        wanted: names of those that shall leave.

    Attributes:
        misfits: properties whose value was not what it should be, and how often. Such a value is kept among the
            unknown fields.
    """

    def __init__(self, fields: Iterable[Field], wanted: Collection[str]) -> None:
        """Prepare what is looked up for every item."""
        all_fields = list(fields)
        self.misfits: dict[str, int] = {}
        self._plans = [
            (field.name, field.path, CONVERSIONS[field.type]) for field in all_fields if field.name in wanted
        ]
        self._known = {field.path[0] for field in all_fields}
        self._keep_unknown = UNKNOWN_FIELDS in wanted

    def record(self, item: dict[str, Any], **given: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """Make the record of an item.

        Args:
            item: as Piano wrote it.
            given: properties that do not stand in it.
        """
        record: dict[str, Any] = {}
        unknown: dict[str, Any] = {}
        for name, path, convert in self._plans:
            value = given[name] if name in given else _find(item, path)
            if value is None:
                record[name] = None
                continue
            try:
                record[name] = convert(value)
            except (ValueError, KeyError, OverflowError, OSError):
                record[name] = None
                unknown[path[-1]] = value
                self.misfits[name] = self.misfits.get(name, 0) + 1
        if self._keep_unknown:
            unknown |= {key: value for key, value in item.items() if key not in self._known}
            record[UNKNOWN_FIELDS] = unknown or None
        return record


def _find(item: dict[str, Any], path: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON
    value: Any = item
    for member in path:
        if isinstance(value, list):
            value = [entry[member] for entry in value if isinstance(entry, dict) and member in entry]
            continue
        value = value.get(member) if isinstance(value, dict) else None
    return value
