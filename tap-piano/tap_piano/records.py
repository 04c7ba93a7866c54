"""What a property of the Publisher API's streams is, and how an item of Piano's answer becomes a record.

A schema and the conversion are made from the same rows, which stand in `fields.py`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.dates import FIRST_DAY
from piano_engage_common.ids import problem_of_id
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


NAMED_IDS: Final = 3
"""Ids of records that a warning lists."""

_MAX_INTEGER: Final = (1 << 63) - 1
_MAX_NUMBER: Final = 1e14
"""Prices and rates are far below, and a database keeps no larger ones with their decimals."""

_MAX_DEPTH: Final = 64
_NO_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
_FIRST_YEAR: Final = int(FIRST_DAY[:4])


@dataclass(frozen=True, slots=True)
class Field:
    """One property.

    Attributes:
        name: in the Singer schema.
        about: its meaning in half a sentence.
        type: what it holds. Moments are epoch seconds at Piano and ISO 8601 in UTC here.
        source: where it stands in Piano's answer, dots leading inwards; its own name if not given.
        personal: says who a person is or how he pays; leaves only when the setting `columns` names it.
        limits: says who may have what, and until when, so that a blank would allow more than Piano does.
    """

    name: str
    about: str
    _: KW_ONLY
    type: Type = TEXT
    source: str = ""
    personal: bool = False
    limits: bool = False

    @property
    def path(self) -> tuple[str, ...]:
        """The members that lead to it."""
        return tuple((self.source or self.name).split("."))


def _text(value: object) -> str:
    if isinstance(value, str):
        if _NO_TEXT.search(value):
            raise ValueError
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value, allow_nan=False)
    raise ValueError


def _moment(value: object) -> str:
    if isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - one kind of error for all that does not fit
    if isinstance(value, int | float):
        moment = datetime.fromtimestamp(value, UTC)
    elif isinstance(value, str):
        moment = datetime.fromisoformat(value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    else:
        raise ValueError  # noqa: TRY004 - as above
    if moment.year < _FIRST_YEAR:
        raise ValueError
    return moment.isoformat()


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[str(value).lower()]


def _number(value: object) -> float | int:
    if isinstance(value, str) and "_" not in value:
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER:  # NaN is not, too
        return value
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
    if isinstance(value, dict) and readable(value) == value:
        return value
    raise ValueError


def _list(value: object) -> list[Any]:
    if isinstance(value, list) and readable(value) == value:
        return value
    raise ValueError


def readable(value: object, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    """Return *value* as JSON and Unicode have it: lost characters as U+FFFD, numbers that are none as null."""
    if isinstance(value, str):
        return _NO_TEXT.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return None
    if isinstance(value, dict | list) and depth == _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {_NO_TEXT.sub("\ufffd", key): readable(one, depth + 1) for key, one in value.items()}
    return [readable(one, depth + 1) for one in value] if isinstance(value, list) else value


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
        key: the one that tells records apart.

    Attributes:
        misfits: properties whose value was not what it should be, and how often. Such a value is kept among the
            unknown fields.
        rejected: records that cannot be used: without an id, or with a misfit in a property that limits something.
        bad: ids of the first records with a misfit, rejected or not, by property; without any of records without one.
    """

    def __init__(self, fields: Iterable[Field], wanted: Collection[str], key: str) -> None:
        """Prepare what is looked up for every item."""
        all_fields = list(fields)
        self.misfits: dict[str, int] = {}
        self.rejected = 0
        self.bad: dict[str, list[str]] = {}
        self._key = key
        self._plans = [
            (field.name, field.path, CONVERSIONS[field.type]) for field in all_fields if field.name in wanted
        ]
        self._limits = {field.name for field in all_fields if field.limits}
        self._known = {field.path[0] for field in all_fields}
        self._keep_unknown = UNKNOWN_FIELDS in wanted

    def record(self, item: object, **given: Any) -> dict[str, Any] | None:  # noqa: ANN401 - JSON
        """Build the record of an item; None where it is rejected.

        Args:
            item: as Piano wrote it.
            given: properties that do not stand in it.
        """
        if not isinstance(item, dict):
            self._reject(self._key)
            return None
        record: dict[str, Any] = {}
        unknown: dict[str, Any] = {}
        odd: list[str] = []
        for name, path, convert in self._plans:
            try:
                value = given[name] if name in given else _find(item, path)
                record[name] = None if value is None else convert(value)
            except (ValueError, KeyError, OverflowError, OSError, RecursionError):
                record[name] = None
                unknown[path[-1]] = readable(_find(item, path, strictly=False))
                odd.append(name)
        if problem_of_id(record[self._key]) or not self._limits.isdisjoint(odd):
            self._reject(*odd or [self._key], record_id=record[self._key])
            return None
        for name in odd:
            self.misfits[name] = self.misfits.get(name, 0) + 1
            self._name(name, record[self._key])
        if self._keep_unknown:
            unknown |= {key: value for key, value in item.items() if key not in self._known}
            record[UNKNOWN_FIELDS] = readable(unknown) or None
        return record

    def _reject(self, *names: str, record_id: str | None = None) -> None:
        self.rejected += 1
        for name in names:
            self._name(name, record_id)

    def _name(self, name: str, record_id: str | None) -> None:
        ids = self.bad.setdefault(name, [])
        if record_id and not problem_of_id(record_id) and len(ids) < NAMED_IDS:
            ids.append(record_id)


def _find(item: dict[str, Any], path: tuple[str, ...], *, strictly: bool = True) -> Any:  # noqa: ANN401 - JSON
    """Return what stands at *path*; raise ValueError where something flat stands on the way to it."""
    value: Any = item
    for member in path:
        if isinstance(value, list):
            value = [entry[member] for entry in value if isinstance(entry, dict) and member in entry]
        elif isinstance(value, dict):
            value = value.get(member)
        elif value is None or not strictly:
            return value
        else:
            raise ValueError
    return value
