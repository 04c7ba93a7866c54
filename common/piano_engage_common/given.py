"""Settings as they are given, brought to the types that their JSON schema asks for.

The environment and Meltano hand a number on as text (Meltano 4.4 cannot hand on a ``kind: decimal`` from the
environment at all: it makes a Decimal of it, which its own JSON encoder refuses), and the SDK reads one from a file
as a Decimal.
"""

from __future__ import annotations

import ast
import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from piano_engage_common.stops import ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

_KINDS = {"number": (int, float), "integer": (int,), "boolean": (bool,)}


def typed(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give settings whose numbers are numbers, and whose true and false are that.

    Args:
        config: settings by name.
        schema: the JSON schema of the settings.

    Returns:
        The settings; what is not what the schema asks for stays as it is, for the validation to name.
    """
    properties = schema.get("properties", {})
    return {name: _typed(value, properties.get(name, {})) for name, value in config.items()}


def _typed(value: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    if not isinstance(value, str) or "string" in types:
        return value
    wanted = tuple(kind for name in types for kind in _KINDS.get(name, ()))
    try:
        found = json.loads(value.lower() if bool in wanted else value)
    except ValueError:
        return value
    return found if type(found) in wanted else value


def texts_or_lists(schema: Mapping[str, Any], prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read from the environment the settings that may be a text or a list.

    Meltano 4.4 writes a list of a setting without `kind: array` as Python does, and one with it may not be a text.

    Args:
        schema: the JSON schema of the settings.
        prefix: with which the variables begin.
        environment: the variables.
    """
    found = {}
    for name, entry in schema.get("properties", {}).items():
        variable = f"{prefix}{name.upper()}"
        if variable in environment and is_text_or_list(entry):
            found[name] = _list_in(environment[variable])
    return found


def is_text_or_list(entry: Mapping[str, Any]) -> bool:
    """Whether a setting may be a text or a list."""
    types = entry.get("type", ())
    return not isinstance(types, str) and {"string", "array"} <= set(types)


def _list_in(given: str) -> Any:  # noqa: ANN401 - JSON
    """Give the list that a text spells as JSON or as Python does, else the text."""
    if not given.lstrip().startswith("["):
        return given
    for read in (json.loads, ast.literal_eval):
        try:
            return read(given.strip())
        except (ValueError, SyntaxError):
            continue
    return given


def check_zone(zone: str) -> None:
    """Look whether there is such a time zone.

    Raises:
        ConfigRefused: there is none.
    """
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as e:
        msg = f"timezone: {zone!r} is no IANA time zone. Write it like 'Europe/Amsterdam' or 'UTC'."
        raise ConfigRefused(msg) from e


def check_memory_limit(limit: str) -> None:
    """Look whether DuckDB takes this as an amount of memory.

    Raises:
        ConfigRefused: it does not.
    """
    if not re.fullmatch(r"[1-9]\d*(\.\d+)? ?[KMGT]i?B", limit, re.IGNORECASE):
        msg = f"memory_limit: {limit!r} is no amount of memory. Write it like '320MB' or '2GB'."
        raise ConfigRefused(msg)


def take_own(environment: MutableMapping[str, str], prefix: str, settings: Iterable[str]) -> None:
    """Let the settings of an account come from the variables of the application that is asked for, and from no other.

    Several applications share one `.env`, and a process inherits all of it. The variable ``<prefix>ACCOUNT`` names what
    the application's own variables begin with; where it is not set, nothing is done.

    Args:
        environment: is changed.
        prefix: what the variables of the program begin with, such as ``TARGET_RECURLY_ENGAGE_``.
        settings: names of settings that belong to one account.
    """
    own = environment.get(f"{prefix}ACCOUNT")
    if not own:
        return
    for setting in settings:
        environment.pop(f"{prefix}{setting.upper()}", None)
        if value := environment.get(f"{own}_{setting.upper()}"):
            environment[f"{prefix}{setting.upper()}"] = value
