"""The one rule for ids of users and subscriptions: what is trimmed, and what is damage rather than an id.

Ids join exports, other taps and Engage. An id that a spreadsheet or a program has damaged on the way may be that of
nobody, or of many users at a time. The rule exists twice: as SQL for relations (:func:`id_value`, :func:`id_problem`)
and in Python for single values (:func:`clean_id`, :func:`problem_of_id`). Both are made from the same tables.
"""

from __future__ import annotations

import re
from typing import Final

from piano_engage_common.duck import text

MAX_CHARACTERS: Final = 256
"""Longer ones are a cell that slipped, or several cells in one."""

BLANK: Final = "is blank"
TOO_LONG: Final = f"is longer than {MAX_CHARACTERS} characters, so it is no id"
DAMAGED: Final = "is no id"
"""The problem of a damaged id in SQL; :func:`problem_of_id` says which damage."""

_SPACES = (
    (0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000),
)  # fmt: skip
_INVISIBLE = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x115F, 0x1160),
    (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
_TRIMMED = (*_SPACES, *_INVISIBLE)
"""Code points that are removed at both ends: Unicode's white space, and what no screen shows."""

_SURROGATES = ((0xD800, 0xDFFF),)
"""Half characters, which only Python can hold."""

_CONTROLS = ((0x00, 0x1F), (0x7F, 0x9F))
_NO_CHARACTERS = ((0xE000, 0xF8FF), (0xFDD0, 0xFDEF), (0xFFFC, 0xFFFF), (0xF0000, 0x10FFFF))
_UNSEEN = tuple(span for span in (*_CONTROLS, *_TRIMMED, *_NO_CHARACTERS) if span != (0x20, 0x20))
"""Code points that no id has inside: they cannot be seen, or stand where a character was lost (U+FFFD)."""


def _any_case(words: str) -> str:
    """Return the pattern of *words* in upper and lower case, without the folding of a regular expression's flag."""
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in words)


_NULL_WORDS = "|".join(
    [_any_case(word) for word in ("null", "none", "nil", "nan", "nat", "na", "undefined", "undef", "empty", "blank")]
    + [_any_case(word) for word in ("true", "false", "missing", "unknown", "void", "default")]
    + [_any_case("n/a"), _any_case("n") + "[.]" + _any_case("a") + "[.]?", _any_case("pd[.]na"), _any_case("dbnull")]
)
_MONTHS = "|".join(map(_any_case, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")))
_DIGITS = "[0-9]"
_DATE = rf"{_DIGITS}{{1,2}}[- /]({_MONTHS})([- /]{_DIGITS}{{2,4}})?|({_MONTHS})[- /]{_DIGITS}{{2}}"
_SHORT_DATE = rf"{_DIGITS}{{1,2}}/{_DIGITS}{{1,2}}/({_DIGITS}{{4}}|{_DIGITS}{{2}})"
_DOUBLE_QUOTES = '"\u201c\u201d\u201e\u00ab\u00bb'
_QUOTES = f"{_DOUBLE_QUOTES}\u2018\u2019\u201a"

_DAMAGES: tuple[tuple[str, str], ...] = (
    (
        rf"[=#'`\[{{\\{_QUOTES}].*|.*[{_QUOTES}]|.*[{_DOUBLE_QUOTES}].*",
        "has a spreadsheet's guard, quotes or error word in it",
    ),
    (rf"[Ee][Rr][Rr]:{_DIGITS}+", "is a spreadsheet's error word"),
    (rf"[(<]?({_NULL_WORDS})[)>]?", "is a word for no value"),
    (r"[!-/:-@\[-`{-~ ]+", "has no letter and no digit"),
    (
        rf"[-+]?({_DIGITS}+[.,]{_DIGITS}*[Ee][-+]?|{_DIGITS}+[Ee][-+]|{_DIGITS}[Ee]){_DIGITS}{{1,3}}",
        "is in a spreadsheet's scientific notation, which has lost digits",
    ),
    (rf"[-+]?{_DIGITS}+[.,]0*", "is a decimal number, so a program has changed it"),
    (rf"[-+]?[1-9]{_DIGITS}{{0,2}}([., ]{_DIGITS}{{3}})+([.,]{_DIGITS}*)?", "is a number with separators in it"),
    (f"{_DATE}|{_SHORT_DATE}", "is a date, so a spreadsheet has changed it"),
)
"""Patterns over a whole trimmed id that show damage, and how. They mean the same to RE2 and to Python's ``re``."""

_SOUND = rf"[A-Za-z]+{_DIGITS}[0-9A-Za-z_-]*|{_DIGITS}{{1,20}}|[0-9A-Fa-f]{{8}}-[0-9A-Fa-f]{{4}}-[0-9A-Fa-f-]{{22,23}}"
"""Most ids: a prefix with a number, a number, a UUID. Nothing else needs to be looked at, which is fast."""

_UNSEEN_PROBLEM = "has a control character, an invisible or a lost one in it"


def _class(spans: tuple[tuple[int, int], ...], *, sql: bool) -> str:
    escape = "\\x{{{:X}}}" if sql else "\\U{:08x}"
    return "[" + "".join(f"{escape.format(first)}-{escape.format(last)}" for first, last in spans) + "]"


def _pattern(body: str, *, sql: bool) -> str:
    return body.replace(".*", r"(?s:.*)") if sql else body


_TRIM_SQL = text(rf"^{_class(_TRIMMED, sql=True)}+|{_class(_TRIMMED, sql=True)}+$")
_DAMAGE_SQL = text(
    "|".join(f"(?:{_pattern(body, sql=True)})" for body, _ in _DAMAGES) + rf"|(?s:.*){_class(_UNSEEN, sql=True)}(?s:.*)"
)
_SOUND_SQL = text(_SOUND)


def _trimmed(value: str) -> str:
    return f"regexp_replace({value}, {_TRIM_SQL}, '', 'g')"


def id_value(value: str) -> str:
    """Build the SQL of the id that *value* holds: trimmed, and NULL where there is none or it is damaged.

    Args:
        value: SQL of type VARCHAR; it is repeated, so it should be a column.
    """
    trimmed = _trimmed(value)
    return (
        f"CASE WHEN regexp_full_match({value}, {_SOUND_SQL}) AND length({value}) <= {MAX_CHARACTERS} THEN {value} "
        f"WHEN {id_problem(value)} IS NULL THEN {trimmed} END"
    )


def id_problem(value: str) -> str:
    """Build the SQL of what is wrong with *value* as an id: :data:`BLANK`, :data:`TOO_LONG`, :data:`DAMAGED`, or NULL.

    Args:
        value: SQL of type VARCHAR; it is repeated, so it should be a column.
    """
    trimmed = _trimmed(value)
    return (
        f"CASE WHEN {value} IS NULL THEN {text(BLANK)} "
        f"WHEN regexp_full_match({value}, {_SOUND_SQL}) AND length({value}) <= {MAX_CHARACTERS} THEN NULL "
        f"WHEN {trimmed} = '' THEN {text(BLANK)} "
        f"WHEN length({trimmed}) > {MAX_CHARACTERS} THEN {text(TOO_LONG)} "
        f"WHEN regexp_full_match({trimmed}, {_DAMAGE_SQL}) THEN {text(DAMAGED)} END"
    )


_ENDS = "".join(chr(point) for first, last in _TRIMMED for point in range(first, last + 1))
_UNSEEN_INSIDE = re.compile(_class((*_UNSEEN, *_SURROGATES), sql=False))
_DAMAGE_PATTERNS = tuple((re.compile(body, re.DOTALL), problem) for body, problem in _DAMAGES)


def clean_id(value: str | None) -> str | None:
    """Return the id that *value* holds, trimmed; None where there is none or it is damaged."""
    return None if value is None or problem_of_id(value) else value.strip(_ENDS)


def problem_of_id(value: str | None) -> str | None:
    """Return what is wrong with *value* as an id, to be read after the name of its column; None when nothing is."""
    trimmed = (value or "").strip(_ENDS)
    if not trimmed:
        return BLANK
    if len(trimmed) > MAX_CHARACTERS:
        return TOO_LONG
    for pattern, problem in _DAMAGE_PATTERNS:
        if pattern.fullmatch(trimmed):
            return problem
    return _UNSEEN_PROBLEM if _UNSEEN_INSIDE.search(trimmed) else None
