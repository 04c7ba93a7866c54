"""Whole files: the same bytes for the same options, exact numbers of rows, awkward content that survives."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_sandbox.columns import GROUPS, headers
from piano_engage_sandbox.data import Export, ExportError, Options, log_rows, write_log
from piano_engage_sandbox.log import csv_lines

if TYPE_CHECKING:
    from pathlib import Path

ALL = tuple(GROUPS)
AS_OF = "2026-03-28T06:00"


def parse(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))


def written(folder: Path, name: str = "log.csv", *, jobs: int = 1, **options: Unpack[Options]) -> bytes:
    write_log(folder / name, jobs=jobs, **options)
    return (folder / name).read_bytes()


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path, rows=3000, seed=4, as_of=AS_OF, groups=ALL)
    assert written(tmp_path, rows=3000, seed=4, as_of=AS_OF, groups=ALL) == first
    assert written(tmp_path, rows=3000, seed=5, as_of=AS_OF, groups=ALL) != first
    assert written(tmp_path, rows=3000, seed=4, as_of=AS_OF, groups=ALL, aid="OtHeR00001") != first


@pytest.mark.parametrize(
    "size", [{"rows": 3001}, {"readers": 9000}, {"rows": 2500, "since": "2026-01-01T00:00", "as_of": AS_OF}]
)
def test_the_number_of_processes_does_not_show(tmp_path: Path, size: Options) -> None:
    alone = written(tmp_path, **size)
    assert written(tmp_path, jobs=3, **size) == alone


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 250, 1033])
def test_exactly_so_many_rows(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "log.csv"
    assert write_log(path, rows=rows, as_of=AS_OF) == rows
    table = parse(path.read_bytes())
    assert len(table) == rows + 1
    assert {len(row) for row in table} == {78}
    assert len({row[0] for row in table[1:]}) == rows


def test_more_rows_of_one_seed_are_more_of_the_same() -> None:
    few, more = (list(log_rows(rows=n, as_of=AS_OF)) for n in (500, 800))
    shared = {r["Subscription ID"] for r in few} & {r["Subscription ID"] for r in more}
    assert len(shared) > 490


def test_readers_are_counted_from_zero() -> None:
    few, more = (list(log_rows(readers=n, as_of=AS_OF)) for n in (1500, 1700))
    assert more[: len(few)] == few
    assert 400 < len(few) < len(more)


@pytest.mark.parametrize("groups", [("DEFAULT",), ("MODIFY_TIME",), ALL])
def test_a_file_holds_what_rows_as_dicts_hold(tmp_path: Path, groups: tuple[str, ...]) -> None:
    table = parse(written(tmp_path, rows=2000, as_of=AS_OF, groups=groups))
    assert table[0] == headers(groups)
    assert [dict(zip(table[0], row, strict=True)) for row in table[1:]] == list(
        log_rows(rows=2000, as_of=AS_OF, groups=groups)
    )


@given(
    st.lists(st.lists(st.text(alphabet=st.characters(codec="utf-8")), min_size=2, max_size=2), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_cell_survives(rows: list[list[str]], end: str) -> None:
    assert list(csv.reader(io.StringIO(csv_lines(rows, end), newline=""), strict=True)) == rows


def test_quotes_stand_only_where_needed() -> None:
    rows = [["plain", "a b", "ünï", "'"], ["a,b", 'a"b', "a\nb", "a\r\nb"], ["", " ", "-", "="]]
    assert csv_lines(rows, "\n") == 'plain,a b,ünï,\'\n"a,b","a""b","a\nb","a\r\nb"\n, ,-,=\n'


def test_awkward_content_occurs_in_two_thousand_rows(tmp_path: Path) -> None:
    data = written(tmp_path, rows=2000, as_of=AS_OF)
    table = parse(data)
    column = {h: [row[k] for row in table[1:]] for k, h in enumerate(table[0])}
    cells = [cell for row in table[1:] for cell in row]
    assert len(data.splitlines()) > 2001, "line breaks inside cells"
    assert any("\r\n" in c for c in column["Address 1"])
    assert any("\n" in c and "\r" not in c for c in column["Address 1"])
    assert any("\n" in c for c in column["Company name"])
    assert any("," in c for c in column["Company name"])
    assert any('"' in c for c in column["Company name"])
    assert any("," in c for c in column["Term name"])
    assert any('"' in c for c in column["Offer name"])
    assert any(c.startswith("=") for c in cells)
    assert any(re.search("[\u0590-\u06ff]", c) for c in column["Last name"]), "right to left"
    assert any(re.search("[\u0590-\u06ff]", c) for c in column["Term name"]), "right to left"
    assert any("\U0001f393" in c for c in column["Term name"]), "beyond the basic plane"
    assert any(re.search("[\u4e00-\u9fff]", c) for c in column["Last name"])
    assert any(re.fullmatch(r"0\d{4}", c) for c in column["Postal code"])
    assert any(c.startswith("+") for c in column["Phone"])
    assert any(re.match(r"\d{4}-02-29 ", c) for c in column["Start date"]), "leap day"
    doubled = {c[-5:] for c in column["Start date"] if re.match(r"\d{4}-10-(2[5-9]|3[01]) 02:", c)}
    assert doubled == {"+0100", "+0200"}, "the hour that occurs twice"
    assert {c[-5:] for c in column["Create date"]} == {"+0100", "+0200"}
    assert "" in column["Next billing date"]


def test_rows_are_not_in_order_of_modify_time() -> None:
    times = [
        datetime.strptime(r["Modify time"], "%Y-%m-%d %H:%M:%S %z") for r in log_rows(rows=200, as_of=AS_OF, groups=ALL)
    ]
    assert times not in (sorted(times), sorted(times, reverse=True))


def test_crlf_and_byte_order_mark(tmp_path: Path) -> None:
    plain = written(tmp_path, rows=50, as_of=AS_OF)
    dressed = written(tmp_path, rows=50, as_of=AS_OF, crlf=True, bom=True)
    assert not plain.startswith(b"\xef\xbb\xbf")
    assert dressed.startswith(b"\xef\xbb\xbfSubscription ID,")
    assert dressed.endswith(b"\r\n")
    assert parse(dressed.removeprefix(b"\xef\xbb\xbf")) == parse(plain)


def test_dashboard_date_times(tmp_path: Path) -> None:
    (_, *usual), (_, *dashboard) = (
        parse(written(tmp_path, rows=300, as_of=AS_OF, timestamps=t)) for t in ("piano", "dashboard")
    )
    for one, other in zip(usual, dashboard, strict=True):
        then = datetime.strptime(other[2], "%m/%d/%Y %I:%M %p").replace(tzinfo=UTC)
        assert then.strftime("%Y-%m-%d %H:%M") == one[2][:16]
        assert (one[4] == "") == (other[4] == "")


@pytest.mark.parametrize(
    ("name", "offsets"), [("America/New_York", {"-0500", "-0400"}), ("Asia/Kolkata", {"+0530"}), ("UTC", {"+0000"})]
)
def test_other_time_zones(name: str, offsets: set[str]) -> None:
    assert {r["Create date"][-5:] for r in log_rows(rows=300, as_of=AS_OF, timezone=name)} == offsets


def test_zip_holds_the_same_csv_and_is_the_same_each_time(tmp_path: Path) -> None:
    plain = written(tmp_path, rows=300, as_of=AS_OF)
    packed = written(tmp_path, "log.zip", rows=300, as_of=AS_OF)
    with zipfile.ZipFile(tmp_path / "log.zip") as archive:
        assert archive.namelist() == ["log.csv"]
        assert archive.read("log.csv") == plain
    assert written(tmp_path, "log.zip", rows=300, as_of=AS_OF) == packed


def test_moments_may_be_date_times() -> None:
    naive = datetime.fromisoformat(AS_OF)
    aware = datetime(2026, 3, 28, 5, 0, tzinfo=UTC)
    assert (
        list(log_rows(rows=9, as_of=naive))
        == list(log_rows(rows=9, as_of=aware))
        == list(log_rows(rows=9, as_of=AS_OF))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 1, "readers": 1}, "rows or readers"),
        ({"rows": -1}, "rows must not be negative: -1"),
        ({"readers": -5}, "readers must not be negative: -5"),
        ({"as_of": "2018-05-01T00:00"}, "as_of must lie between 2019 and 2034.*2018-05-01"),
        ({"since": "2040-01-01T00:00"}, "since must lie between"),
        ({"as_of": "2026-01-01T00:00", "since": "2026-01-02T00:00"}, "as_of .* lies before since"),
    ],
)
def test_options_that_make_no_sense(options: Options, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Export(**options)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt(rows)

    old = tmp_path / "log.csv"
    old.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_log(old, rows=50, as_of=AS_OF, progress=stop)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]
