"""The trait manifest: each trait that is sent, and what an administrator must still do in Pulse."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name

from target_recurly_engage.pulse import DISPLAYS, TYPES
from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.traits import Trait

COLUMNS: Final = ("trait", "type", "display", "description", "values", "first_told", "to_do")
_SHOWN_VALUES: Final = 12


def manifest(ledger: Ledger | None, contract: Contract) -> list[dict[str, str]]:
    """List the traits of the contract.

    Args:
        ledger: says which values Engage was told and since when; without one nothing was told yet.
        contract: says which traits there are.
    """
    columns = ledger.columns("delivered") if ledger else []
    clashes, since = contract.clashes(), _since(ledger) if ledger else {}
    return [
        {
            "trait": trait.name,
            "type": TYPES[trait.kind],
            "display": DISPLAYS[trait.kind],
            "description": description(trait, contract),
            "values": _values(ledger, trait) if ledger and trait.name in columns else "",
            "first_told": since.get(trait.name, ""),
            "to_do": _to_do(trait, clashes.get(trait.name), told=trait.name in since),
        }
        for trait in contract.traits
    ]


def description(trait: Trait, contract: Contract) -> str:
    """Say what a trait is, in one sentence."""
    meanings = {formula.name: formula.meaning for formula in contract.formulas}
    meanings |= {f"told {one.name}": one.description or f"In the segment {one.name}." for one in contract.segments}
    meanings |= {
        f"experiment {one.name}": one.description or f"Arm of the experiment {one.name}: {', '.join(one.arms)}."
        for one in contract.experiments
    }
    if trait.key in meanings and trait.computed:
        return meanings[trait.key]
    if trait.computed:
        return "Names of the segments that the reader is in."
    if trait.stream:
        return f"{trait.key} of the stream {trait.stream}."
    return f"{trait.key.replace('_', ' ').capitalize()} of the primary subscription, as Piano's log has it."


def _since(ledger: Ledger) -> dict[str, str]:
    return dict(ledger.connection.execute("SELECT trait, first_at::DATE::VARCHAR FROM traits").fetchall())


def _values(ledger: Ledger, trait: Trait) -> str:
    column = name(trait.name)
    rows = f"FROM delivered WHERE {column} IS NOT NULL"
    different = ledger.count(f"SELECT approx_count_distinct({column}) {rows}")
    if trait.kind in {Kind.STRING, Kind.BOOLEAN} and different <= 2 * _SHOWN_VALUES:
        query = f"SELECT {column}, count(*) AS n {rows} GROUP BY 1 ORDER BY n DESC, 1 LIMIT {_SHOWN_VALUES + 1}"
        found = ledger.connection.execute(query).fetchall()
        if len(found) <= _SHOWN_VALUES:
            return ", ".join(f"{value} ({count:,})" for value, count in found)
    if trait.kind in {Kind.NUMBER, Kind.MONEY, Kind.DATE}:
        cast = f"TRY_CAST({column} AS {'DATE' if trait.kind is Kind.DATE else 'DECIMAL(38,4)'})"
        ((low, high),) = ledger.connection.execute(
            f"SELECT min({cast})::VARCHAR, max({cast})::VARCHAR {rows}"
        ).fetchall()
        return f"{low} to {high}" if low is not None else ""
    return f"about {different:,} different ones" if different else ""


def _to_do(trait: Trait, clash: str | None, *, told: bool) -> str:
    display = DISPLAYS[trait.kind]
    steps = [] if told else ["send it once"]
    steps.append(f"Settings > User Traits: type {TYPES[trait.kind]}, display {display}")
    if trait.kind is Kind.BOOLEAN and not told:
        steps.append("type in the values true and false")
    if clash:
        steps.append(f"rename it: {clash}")
    return "; ".join(steps)


def as_csv(rows: list[dict[str, str]]) -> str:
    """Write the manifest as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_markdown(rows: list[dict[str, str]]) -> str:
    """Write the manifest as a table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row[column].replace('|', chr(92) + '|') for column in COLUMNS)} |" for row in rows]
    return "\n".join(lines) + "\n"


def as_table(rows: list[dict[str, str]]) -> Iterator[str]:
    """Put the manifest into words for a terminal."""
    width = max((len(row["trait"]) for row in rows), default=0)
    for row in rows:
        yield f"{row['trait']:{width}}  {row['type']:7}  {row['display']:12}  {row['description']}"
        if row["values"]:
            yield f"{'':{width}}  since {row['first_told']}: {row['values']}"
        yield f"{'':{width}}  to do: {row['to_do']}"
