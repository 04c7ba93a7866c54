"""What faults and limits have in common: which requests a rule is about, and how its JSON is read.

A rule is a flat JSON object, or the same as text for a flag: `part=engage,path=/ingest/*,status=503,times=5`.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from piano_engage_sandbox.journal import WATCHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_engage_sandbox.journal import Entry


class RuleError(ValueError):
    """A rule nobody can follow; the message names the member."""


@dataclass(slots=True, kw_only=True)
class Match:
    """Which requests a rule is about: all that fit every member that is given."""

    part: Literal["publisher", "reports", "engage", "page", "nobody"] | None = None
    """Who answers. Without it a rule is about both vendors and not about the page; `/_sandbox` is never meant."""
    path: str | None = None
    """Path as a glob, such as `/ingest/*`."""
    method: str | None = None
    """GET, POST …"""
    user: str | None = None
    """User id the request is about."""
    aid: str | None = None
    """Piano's application."""

    def fits(self, entry: Entry) -> bool:
        """Whether a request is meant."""
        if self.part is None and entry.part in WATCHING:
            return False
        return (
            (self.part is None or self.part == entry.part)
            and (self.path is None or fnmatchcase(entry.path, self.path))
            and (self.method is None or self.method == entry.method)
            and (self.user is None or self.user == entry.user)
            and (self.aid is None or self.aid == entry.aid)
        )


R = TypeVar("R")


def read_rule(kind: type[R], given: object, what: str) -> R:
    """Make a rule of JSON or of a flag's text; raises RuleError that names what is wrong."""
    members = _members(given, what) if isinstance(given, str) else given
    if not isinstance(members, dict):
        msg = f"a {what} is a JSON object, not {type(given).__name__}"
        raise RuleError(msg)
    known = {f.name: f for f in fields(kind) if f.init}  # type: ignore[arg-type]
    unknown = sorted(set(members) - set(known))
    if unknown:
        msg = f"{what}: unknown member {unknown[0]!r}; there are: {', '.join(known)}"
        raise RuleError(msg)
    missing = [
        n for n, f in known.items() if n not in members and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        msg = f"{what}: {missing[0]!r} is missing"
        raise RuleError(msg)
    hints = get_type_hints(kind)
    return kind(**{name: read_member(f"{what}: {name}", hints[name], value) for name, value in members.items()})


def _members(text: str, what: str) -> dict[str, object]:
    """Take a flag apart: JSON, or `name=value` by commas; a name alone is true."""
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as e:
            msg = f"{what}: not JSON: {text!r}"
            raise RuleError(msg) from e
    pairs = [item.partition("=") for item in text.split(",") if item.strip()]
    return {name.strip(): value.strip() if sign else True for name, sign, value in pairs}


def read_member(name: str, hint: Any, value: object) -> object:  # noqa: ANN401 - a type hint is anything
    """Turn a value, or its text, into what a member takes; raises RuleError."""
    choices = [kind for kind in get_args(hint) if kind is not type(None)] if _is_union(hint) else [hint]
    if value is None and _is_union(hint) and type(None) in get_args(hint):
        return None
    for kind in choices:
        try:
            return _read(kind, value)
        except (TypeError, ValueError, KeyError):
            continue
    takes = " or ".join(_name(kind) for kind in choices)
    msg = f"{name} takes {takes}, not {value!r}"
    raise RuleError(msg)


_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _read(kind: Any, value: object) -> object:  # noqa: ANN401 - a type hint is anything
    if get_origin(kind) is Literal:
        return next(choice for choice in _known(kind, value) if choice == value or str(choice) == str(value))
    if kind is bool:
        return _WORDS[str(value).lower()]
    if kind in (int, float):
        if isinstance(value, bool) or (number := kind(value)) < 0:
            raise ValueError
        return number
    if kind is str and isinstance(value, str):
        return value
    if get_origin(kind) is dict and isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    raise TypeError


def _known(kind: Any, value: object) -> tuple[object, ...]:  # noqa: ANN401 - a type hint is anything
    choices = get_args(kind)
    if str(value) not in map(str, choices):
        raise ValueError
    return choices


def _is_union(hint: Any) -> bool:  # noqa: ANN401 - a type hint is anything
    return not isinstance(hint, type) and get_origin(hint) not in (Literal, dict) and bool(get_args(hint))


def _name(kind: Any) -> str:  # noqa: ANN401 - a type hint is anything
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is dict:
        return "an object"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def shown(rule: object, without: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Give the members of a rule that were said, as JSON takes them."""
    hidden = without or {}
    return {
        f.name: getattr(rule, f.name)
        for f in fields(rule)  # type: ignore[arg-type]
        if f.init and f.name not in hidden and getattr(rule, f.name) != f.default and getattr(rule, f.name) is not None
    }
