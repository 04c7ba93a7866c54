"""Switches: every guess has a name, a default and words it takes; anything else is refused by name."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields

import pytest
from piano_engage_sandbox import switches
from piano_engage_sandbox.switches import SwitchError, Switches

TEXTS = [
    ("engage.auth", "key", "key"),
    ("publisher.unknown_subscription", "2", 2),
    ("publisher.unknown_subscription", 2, 2),
    ("reports.duplicate_window", "0", 0.0),
    ("reports.duplicate_converts", "False", False),
    ("reports.duplicate_converts", "yes", True),
    ("publisher.max_limit", "100", 100),
    ("engage.key_parameter", "k", "k"),
]


@pytest.mark.parametrize(("name", "value", "expected"), TEXTS)
def test_text_is_read_as_what_the_switch_takes(name: str, value: object, expected: object) -> None:
    made = Switches()
    made.set(name, value)
    assert made.as_dict()[name] == expected
    assert type(made.as_dict()[name]) is type(expected)


REFUSED = [
    ("engage.nonsense", 1, "no switch 'engage.nonsense'"),
    ("nonsense.auth", 1, "no switch"),
    ("auth", 1, "no switch"),
    ("", 1, "no switch"),
    ("engage", 1, "no switch"),
    ("engage.auth", "magic", "takes basic, key, either, both, none: 'magic'"),
    ("reports.duplicate_converts", "perhaps", "takes true or false"),
    ("reports.duplicate_window", "soon", "takes a float"),
    ("publisher.max_limit", None, "takes a int"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_anything_else_is_refused_by_name(name: str, value: object, message: str) -> None:
    made = Switches()
    before = made.as_dict()
    with pytest.raises(SwitchError) as caught:
        made.set(name, value)
    assert message in str(caught.value)
    assert made.as_dict() == before


def test_every_default_is_a_value_the_switch_takes() -> None:
    made = Switches()
    for name, value in made.as_dict().items():
        made.set(name, value)
        made.set(name, str(value))
    assert made == Switches()


def test_every_switch_says_what_it_decides() -> None:
    """A docstring below each field: docs/sandbox.md is made of them."""
    tree = ast.parse(inspect.getsource(switches))
    for part in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Switches")):
        if part.name == "Switches":
            continue
        lines = [node for node in part.body if not isinstance(node, ast.FunctionDef)]
        for field, following in zip(lines[1:], [*lines[2:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                said = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert said, f"{part.name}.{ast.unparse(field.target)} has no docstring"


def test_two_sandboxes_do_not_share_switches() -> None:
    one, other = Switches(), Switches()
    one.set("engage.auth", "none")
    assert other.engage.auth == "basic"
    assert {part.name for part in fields(Switches)} == {"publisher", "reports", "webhooks", "engage"}
