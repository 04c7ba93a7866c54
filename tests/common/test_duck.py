"""The connection, and SQL text made from names."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_common.duck import connect, name, session, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """One for all examples."""
    with duckdb.connect() as connection:
        yield connection


@given(value=TEXT)
def test_any_text_stays_itself_in_sql(connection: duckdb.DuckDBPyConnection, value: str) -> None:
    assert connection.execute(f"SELECT {text(value)}").fetchall() == [(value,)]


@given(identifier=TEXT.filter(bool))
def test_any_name_stays_itself_in_sql(connection: duckdb.DuckDBPyConnection, identifier: str) -> None:
    description = connection.execute(f"SELECT 1 AS {name(identifier)}").description
    assert [column[0] for column in description] == [identifier]


def zone_of(connection: duckdb.DuckDBPyConnection) -> str:
    ((zone,),) = connection.sql("SELECT current_setting('TimeZone')").fetchall()
    return str(zone)


def test_connection_works_in_utc_and_its_sessions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    with connect(spill=tmp_path / "spill") as connection, session(connection.cursor()) as cursor:
        assert zone_of(connection) == zone_of(cursor) == "UTC"


def test_extensions_are_never_fetched_and_memory_is_bounded(tmp_path: Path) -> None:
    with connect(spill=tmp_path / "spill", memory_limit="100MB") as connection:
        ((install, load, memory, spill),) = connection.sql(
            "SELECT current_setting('autoinstall_known_extensions'), current_setting('autoload_known_extensions'), "
            "current_setting('memory_limit'), current_setting('temp_directory')"
        ).fetchall()
    assert (install, load, memory) == (False, False, "95.3 MiB")
    assert spill == str(tmp_path / "spill")


def test_database_on_disk_stays(tmp_path: Path) -> None:
    path = tmp_path / "it's a.duckdb"
    with connect(path, spill=tmp_path / "spill") as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
    with connect(path, spill=tmp_path / "spill") as connection:
        assert connection.sql("FROM t").fetchall() == [(42,)]


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(duckdb.IOException):
        connect(path, spill=tmp_path / "spill")


FAILING = """
import sys
from pathlib import Path
import duckdb
from piano_engage_common.duck import connect
folder = Path(sys.argv[1])
connection = connect(spill=folder / "spill")
connection.execute("CREATE TABLE rows AS SELECT range AS number, repeat('x' || range, 20) AS words FROM range(300000)")
for culprit in range(100_000, 300_000, 5_000):
    select = f"SELECT number, words, CASE WHEN number = {culprit} THEN error('no') END FROM rows"
    try:
        connection.execute(f"COPY ({select}) TO '{folder / 'out.csv'}'")
    except duckdb.Error:
        continue
    sys.exit("no error")
"""


def test_a_copy_that_fails_ends(tmp_path: Path) -> None:
    """With DuckDB's own threads for writing (``async_threads``) one of a few waits for ever."""
    done = subprocess.run([sys.executable, "-c", FAILING, tmp_path], timeout=240, check=False)
    assert done.returncode == 0
