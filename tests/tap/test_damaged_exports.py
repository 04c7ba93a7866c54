"""A good export, damaged at random, beside a plain reader of CSV: nobody gets what the export does not say of them.

``FAULT_ROUNDS=10`` draws many more damages.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_common.duck import connect
from piano_engage_common.progress import Progress
from piano_engage_common.stops import InputRefused
from tap_piano import staging
from tap_piano.files import read_header
from tap_piano.listing import list_exports
from tap_piano.log import LogCounts, LogOptions, SubscriptionLog
from tap_piano.survey import Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import duckdb

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
EXAMPLES = 50 if ROUNDS == 1 else 400 * ROUNDS
HEADERS = ("Subscription ID", "User ID (UID)", "Start date", "Total charged", "Term name", "Offer name", "Promo code")
NAMES = ("subscription_id", "user_id", "start_date", "total_charged", "term_name", "offer_name", "promo_code")
TAGS = {"term_name": "Term", "offer_name": "Offer", "promo_code": "Promo"}
TERMS = (
    "Term#{}",
    "Term#{}, red",
    'Term#{} "red"',
    "Term#{}\nred",
    "Term#{}\nRCX,uX,,1.00,a,b,c\nx",
    '12" Term#{}',
    "",
)

Row = dict[str, Any]


# The independent reader


def text(cell: str) -> str | None:
    return cell if cell.strip(" ") else None


def moment(cell: str) -> datetime | None:
    found = re.fullmatch(r" *(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d) ([-+]\d{4}) *", cell, re.ASCII)
    if not found or int(found[1]) < 1900:  # years before that are not believed
        return None
    try:
        return datetime.strptime(cell.strip(" "), "%Y-%m-%d %H:%M:%S %z").astimezone(UTC)
    except OverflowError:  # it is in the year 10000 of UTC
        return None


def money(cell: str) -> Decimal | None:
    plain = cell.strip(" ").replace(",", "").replace("$", "")
    return Decimal(plain) if re.fullmatch(r"[-+]?\d+(\.\d+)?", plain, re.ASCII) else None


def identifier(cell: str) -> str:
    return cell.strip(" \t\r\n\u00a0\u200b\ufeff")


READERS: dict[str, Callable[[str], Any]] = {
    "subscription_id": identifier, "user_id": identifier, "start_date": moment, "total_charged": money,
    "term_name": text, "offer_name": text, "promo_code": text,
}  # fmt: skip


def plain_rows(content: bytes) -> list[Row] | None:
    """Read what each row of the export says, as Python's ``csv`` has it; None where that cannot read it."""
    try:
        table = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig", "replace"), newline="")) if row]
    except csv.Error:
        return None
    by_header = {re.sub("[^a-z]", "", header.lower()): name for header, name in zip(HEADERS, NAMES, strict=True)}
    names = [by_header.get(re.sub("[^a-z]", "", cell.lower()), "") for cell in table[0]]
    return [
        {name: READERS[name](cell) for name, cell in zip(names, row, strict=False) if name}
        for row in table[1:]
        if any(cell.strip() for cell in row)
        and len(row) >= len(names)
        and not any(cell.strip() for cell in row[len(names) :])
    ]


# Damages


@dataclass
class Draft:
    """An export in the making: a table, how it is written, and what is done to its bytes."""

    table: list[list[str]]
    write: str = "minimal"
    bytes_after: list[Callable[[bytes], bytes]] = field(default_factory=list)
    damages: int = 0

    def content(self) -> bytes:
        """Return the bytes of the file."""
        if self.write == "naive":
            content = "".join(",".join(row) + "\n" for row in self.table).encode()
        else:
            buffer = io.StringIO()
            quoting = csv.QUOTE_ALL if self.write == "all" else csv.QUOTE_MINIMAL
            csv.writer(buffer, lineterminator="\n", quoting=quoting).writerows(self.table)
            content = buffer.getvalue().encode()
        for change in self.bytes_after:
            content = change(content)
        return content


CELLS = (
    "", " ", ",", "Spring, sale", ", ", "#N/A", "null", "1.0E+14", "12345.0", '="0013"', "\u200b", "soon", "29,9700",
    "3/30/25 2:30 PM", "0001-01-01 00:00:00 +0000", "9999-12-31 23:59:59 -0800", "2025-03-30 00:00:00 +9900",
    "25-03-30 02:30:00 +0100", "2025-02-30 10:00:00 +0100", "2025-03-30 24:00:00 +0100", "infinity",
)  # fmt: skip
PIECES = (
    b'"',
    b'""',
    b' "',
    b'" ',
    b",",
    b" ",
    b"\t",
    b";",
    b"\n",
    b"\r",
    b"\r\n",
    b"\xe9",
    b"\xe2\x80\x8b",
    b"\xc2\xa0",
)


def damage_table(draw: st.DrawFn, draft: Draft) -> None:
    """Do one thing to a row, or to all of them."""
    table = draft.table
    row = table[draw(st.integers(1, len(table) - 1))]
    at = draw(st.integers(0, max(len(row) - 1, 0)))
    kind = draw(st.sampled_from(["remove", "add", "shift", "retype", "comma", "commas", "blank", "header", "again"]))
    if kind == "remove" and row:
        del row[at]
    elif kind == "add":
        row.insert(at, draw(st.sampled_from(CELLS)))
    elif kind == "shift":
        row[:] = row[-1:] + row[:-1]
    elif kind == "retype" and row:
        row[at] = draw(st.sampled_from(CELLS))
    elif kind == "comma":
        row += [""] * draw(st.integers(1, 2))
    elif kind == "commas":
        for each in table[1:]:
            each.append("")
    elif kind in {"blank", "header", "again"}:
        table.insert(at + 1, {"blank": [""] * len(HEADERS), "header": list(table[0]), "again": list(row)}[kind])


def damage_bytes(draw: st.DrawFn, draft: Draft) -> None:
    """Do one thing to the bytes behind the header."""
    share = draw(st.floats(0.25, 1, exclude_max=True))
    kind = draw(st.sampled_from(["insert", "delete", "drop quote", "CRLF", "BOM", "Latin-1", "cut", "CR CR LF"]))
    piece = draw(st.sampled_from(PIECES))

    def change(content: bytes) -> bytes:
        at = int(len(content) * share)
        quotes = [found.start() for found in re.finditer(b'"', content)]
        quote = quotes[int(len(quotes) * share)] if quotes else at
        return {
            "insert": lambda: content[:at] + piece + content[at:],
            "delete": lambda: content[:at] + content[at + 1 :],
            "drop quote": lambda: content[:quote] + content[quote + 1 :],
            "CRLF": lambda: content.replace(b"\n", b"\r\n"),
            "CR CR LF": lambda: content.replace(b"\n", b"\r\r\n"),
            "BOM": lambda: b"\xef\xbb\xbf" + content,
            "Latin-1": lambda: content.decode(errors="replace").encode("latin-1", "replace"),
            "cut": lambda: content[:at],
        }[kind]()

    draft.bytes_after.append(change)


@st.composite
def damaged(draw: st.DrawFn) -> Draft:
    """Draw an export with up to two damages."""
    numbers = list(range(1, draw(st.integers(2, 7)) + 1))
    rows = [
        [
            f"RC{number}", f"u{number}", f"202{number}-03-0{number} 09:15:26 +0100", f"{number}.5000",
            draw(st.sampled_from(TERMS)).format(number), f"Offer#{number}\u00e9",
            draw(st.sampled_from(["", f"Promo#{number}"])),
        ]
        for number in numbers
    ]  # fmt: skip
    order = draw(st.permutations(range(len(HEADERS))))
    draft = Draft([[row[at] for at in order] for row in [list(HEADERS), *rows]])
    draft.write = draw(st.sampled_from(["minimal", "all", "naive"]))
    draft.damages = draw(st.integers(0, 2)) + (draft.write == "naive")
    for _ in range(draft.damages - (draft.write == "naive")):
        draw(st.sampled_from([damage_table, damage_bytes]))(draw, draft)
    return draft


# The tap


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """One for all examples."""
    with connect(spill=tmp_path_factory.mktemp("spill")) as connection:
        yield connection


def read(connection: duckdb.DuckDBPyConnection, content: bytes) -> tuple[list[Row], LogCounts]:
    """Read an export as the tap does, whatever share of it is rejected."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.mkdir()
        export = Path(folder, "log.csv")
        export.write_bytes(content)
        exports = [(export.unpack(work), read_header(export)) for export in list_exports(str(export)).exports]
        names = tuple(name for name in NAMES if name in exports[0][1])
        logger = logging.getLogger("damaged")
        logger.setLevel(logging.CRITICAL)
        log = SubscriptionLog(
            connection,
            exports,
            LogOptions(names=names, zone="UTC", max_reject_fraction=1, rejects_folder=Path(folder, "rejects")),
            folder=work,
            progress=Progress(logger),
            logger=logger,
        )
        rows = [dict(zip(names, row, strict=True)) for row in log.read().fetchall()]
    return rows, log.counts


def check(connection: duckdb.DuckDBPyConnection, draft: Draft) -> None:
    """Check all that must hold of one damaged export, whether it is read or refused."""
    content = draft.content()
    try:
        sent, counts = read(connection, content)
    except InputRefused:
        return
    assert len(sent) + counts.rejected + counts.superseded == counts.read
    said = plain_rows(content)
    for row in sent:
        assert said is None or row in said, (row, said)
        number = row["user_id"].removeprefix("u")
        if not number.isdigit():  # the cell of the user was replaced by a text, and is what the export says
            continue
        for name, own in TAGS.items():
            for tag, mark in re.findall(r"([A-Z][a-z]+)#(\d)", row.get(name) or ""):
                assert mark == number, row
                assert draft.damages > 1 or tag == own or tag not in TAGS.values(), row
    if counts.complete:
        kept = {row["subscription_id"] for row in sent}
        lines = re.findall(rb'^"?(RC[1-9])"?,', content, re.MULTILINE)
        assert {line.decode() for line in lines} <= kept
        assert {row["subscription_id"] for row in said or []} <= kept


@settings(max_examples=EXAMPLES)
@given(draft=damaged())
def test_nobody_gets_what_the_export_does_not_say_of_them(connection: duckdb.DuckDBPyConnection, draft: Draft) -> None:
    check(connection, draft)


SLIDES = (
    b'RC1,u1,2021-03-01 09:15:26 +0100,1.5,Term#1, "red, x",Offer#1\n',
    b"RC1,u1,2021-03-01 09:15:26 +0100,1.5,Term#1, red,Offer#1,\n",
)


@pytest.mark.parametrize("slide", SLIDES)
def test_the_check_notices_a_tap_that_believes_the_database(
    slide: bytes, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Draft([list(HEADERS)], damages=1, bytes_after=[lambda content: content + slide])
    check(connection, draft)
    monkeypatch.setattr(staging, "survey", lambda *_: Shape(records=1))
    with pytest.raises(AssertionError):
        check(connection, draft)
