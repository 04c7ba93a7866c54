"""Settings as the environment and files give them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from piano_engage_common.given import texts_or_lists, typed

SCHEMA = {
    "properties": {
        "rate": {"type": ["number", "null"]},
        "count": {"type": "integer"},
        "on": {"type": ["boolean", "null"]},
        "name": {"type": ["string", "null"]},
        "either": {"type": ["string", "number"]},
    }
}


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("rate", "0.5", 0.5),
        ("rate", "2", 2),
        ("rate", " 2 ", 2),
        ("rate", Decimal("0.5"), 0.5),
        ("rate", Decimal(3), 3),
        ("rate", 0.25, 0.25),
        ("count", "3", 3),
        ("on", "True", True),
        ("on", "false", False),
        ("name", "17", "17"),
        ("either", "17", "17"),
        ("unknown", "17", "17"),
    ],
)
def test_a_setting_has_the_type_of_its_schema(name: str, given: object, taken: object) -> None:
    assert typed({name: given}, SCHEMA) == {name: taken}
    assert type(typed({name: given}, SCHEMA)[name]) is type(taken)


@pytest.mark.parametrize(
    ("name", "given"),
    [("rate", "soon"), ("rate", ""), ("rate", "true"), ("count", "0.5"), ("on", "1"), ("on", "yes"), ("rate", "[1]")],
)
def test_what_is_something_else_is_left_for_the_validation(name: str, given: Any) -> None:  # noqa: ANN401
    assert typed({name: given}, SCHEMA) == {name: given}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("all,computed", "all,computed"),
        ("all", "all"),
        ("", ""),
        ('["all", {"on": true}]', ["all", {"on": True}]),
        ("['all', {'on': True, 'off': None}]", ["all", {"on": True, "off": None}]),
        (" ['it''s']", ["its"]),
        ("[all", "[all"),
        ("[__import__('os')]", "[__import__('os')]"),
    ],
)
def test_what_may_be_a_text_or_a_list_is_read_as_either(given: str, taken: object) -> None:
    schema = {"properties": {"traits": {"type": ["array", "string", "null"]}, "name": {"type": "string"}}}
    environment = {"X_TRAITS": given, "X_NAME": "['n']", "TRAITS": "no"}
    assert texts_or_lists(schema, "X_", environment) == {"traits": taken}
