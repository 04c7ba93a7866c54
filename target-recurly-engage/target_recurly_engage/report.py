"""The report of a run: one HTML file that needs nothing else, for whoever wants to see what happened last night.

It holds counts, names of traits and segments, and reasons; never a reader's id or value. :mod:`.told` collects what it
shows, the template says it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup, escape

from target_recurly_engage.told import facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.summary import Summary

_LINE: Final = (100, 24)
"""Width and height of a line chart, in its own units."""
_EDGE: Final = 3


def write(path: Path, summary: Summary, ledger: Ledger, contract: Contract, *, now: datetime) -> None:
    """Write the report of a run that has ended into *path*, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        part.write_text(render(facts(summary.as_dict(), ledger, contract, now=now)), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def render(shown: Mapping[str, Any]) -> str:
    """Make the page."""
    return page().render(shown)


@cache
def page() -> Template:
    """Compile the template, which takes longer than all that a small run does otherwise."""
    environment = Environment(
        loader=PackageLoader("target_recurly_engage"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "breakable": _breakable, "line": _line}
    return environment.get_template("report.html.j2")


def _number(number: float | None) -> str:
    if number is None:
        return "?"
    return f"{number:,.1f}" if number % 1 else f"{number:,.0f}"


def _breakable(words: object) -> Markup:
    """Let a long name break after its underscores."""
    return escape(words).replace("_", Markup("_<wbr>"))


def _line(values: Sequence[float]) -> list[tuple[float, float]]:
    """Give the points of a line through *values*, the lowest at the bottom; equal ones run along the middle."""
    width, height = _LINE[0] - 2 * _EDGE, _LINE[1] - 2 * _EDGE
    low, span = min(values), max(values) - min(values)
    step = width / max(len(values) - 1, 1)
    return [
        (round(_EDGE + i * step, 1), round(_EDGE + height * (1 - (value - low) / span if span else 0.5), 1))
        for i, value in enumerate(values)
    ]
