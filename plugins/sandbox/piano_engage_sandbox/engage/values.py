"""Values of traits: what may be one, its text, and the kind it looks like.

Engage is never told a type: an administrator sets it later (reference sheet of Engage, 3.1). What is shown before that
is read off the text, so `"5"` from a file and `5` from JSON are of one kind, though each is kept as it came.
"""

from __future__ import annotations

import json
import re
from datetime import date
from enum import Enum
from functools import lru_cache
from typing import Final, Literal

Kind = Literal["number", "string", "boolean", "date", "null"]
Value = str | int | float | bool | None


class Clear(Enum):
    """What is written to take a trait away."""

    CLEAR = "clear"


CLEAR: Final = Clear.CLEAR

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def text_of(value: Value) -> str:
    """Write a value as a multi-select lists it: `true`, `12.5`, `null`."""
    return value if type(value) is str else json.dumps(value, ensure_ascii=False)


def kind_of(value: Value) -> Kind:
    """Tell what a value looks like."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return _kind_of_text(value) if isinstance(value, str) else "number"


@lru_cache(maxsize=1 << 16)
def _kind_of_text(text: str) -> Kind:
    if text in {"true", "false"}:
        return "boolean"
    if _NUMBER.fullmatch(text):
        return "number"
    return "string" if date_of(text) is None else "date"


def date_of(value: Value) -> date | None:
    """Read a date, `YYYY-MM-DD`; None for anything else."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


def number_of(value: Value) -> float | None:
    """Read a number, or a text that is one; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
        value = float(value)
    return value
