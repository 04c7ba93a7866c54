"""The ledger: versions, what each brings to the next, and a page that tells of every table and column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from piano_engage_common.stops import StorageFailed
from target_recurly_engage import ledger as module
from target_recurly_engage.ledger import MIGRATIONS, VERSION, Ledger

if TYPE_CHECKING:
    from tests.target.conftest import Engage

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"


def opened(path: Path) -> Ledger:
    return Ledger(path, memory_limit="100MB")


def content(path: Path) -> dict[str, list[object]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        names = [name for (name,) in connection.sql("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {name: connection.sql(f"FROM {name}").fetchall() for name in names}


@pytest.mark.parametrize("empty", [False, True])
def test_a_new_ledger_has_the_newest_version(tmp_path: Path, *, empty: bool) -> None:
    path = tmp_path / "made" / "ledger.duckdb"
    if empty:
        path.parent.mkdir()
        duckdb.connect(str(path)).close()
    opened(path).close()
    assert content(path)["ledger"] == [(VERSION,)]


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(engage: Engage) -> None:
    engage.run(engage.messages([]))
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("UPDATE ledger SET version = 99")
    before = engage.dump(without=())
    run = engage.run(engage.messages([]))
    assert (run.code, run.states) == (74, [])
    assert "has version 99, this program knows" in run.errors
    assert engage.dump(without=()) == before


def test_an_older_ledger_is_brought_up_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.duckdb"
    old = opened(path)
    old.connection.execute("INSERT INTO delivered (user_id) VALUES ('u1')")
    old.close()
    more = (
        "ALTER TABLE delivered ADD COLUMN plan_code VARCHAR; UPDATE delivered SET plan_code = 'none'",
        "ALTER TABLE delivered RENAME COLUMN plan_code TO code",
    )
    monkeypatch.setattr(module, "MIGRATIONS", MIGRATIONS + more)
    monkeypatch.setattr(module, "VERSION", VERSION + 2)
    for _ in range(2):
        opened(path).close()
        assert content(path)["ledger"] == [(VERSION + 2,)]
        with duckdb.connect(str(path), read_only=True) as connection:
            assert connection.sql("SELECT user_id, code FROM delivered").fetchall() == [("u1", "none")]


def test_a_migration_that_fails_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.duckdb"
    old = opened(path)
    old.connection.execute("INSERT INTO delivered (user_id) VALUES ('u1')")
    old.close()
    before = content(path)
    broken = ("CREATE TABLE half AS SELECT 1", "ALTER TABLE delivered ADD COLUMN x INT; FROM nowhere")
    monkeypatch.setattr(module, "MIGRATIONS", MIGRATIONS + broken)
    monkeypatch.setattr(module, "VERSION", VERSION + 2)
    with pytest.raises(StorageFailed, match="could not be brought from version 4 to 6"):
        opened(path)
    assert content(path) == before


def test_a_failed_transaction_leaves_the_ledger_usable(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "ledger.duckdb")

    def work() -> None:
        with ledger.transaction():
            ledger.connection.execute("INSERT INTO delivered (user_id) VALUES ('u1')")
            ledger.connection.execute("SELECT 'x'::INT").fetchall()

    with pytest.raises(duckdb.ConversionException):
        work()
    assert ledger.count("SELECT count(*) FROM delivered") == 0
    ledger.close()


def test_the_page_tells_of_every_table_view_and_column(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "ledger.duckdb")
    columns = ledger.connection.sql(
        "SELECT table_name, list(column_name) FROM information_schema.columns GROUP BY table_name"
    ).fetchall()
    ledger.close()
    sections = dict(
        re.findall(r"^### `(\w+)`$(.*?)(?=^##|\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
    assert {name for name, _ in columns} <= sections.keys()
    for name, found in columns:
        missing = [column for column in found if f"`{column}`" not in sections[name]]
        assert missing == [], name


def test_the_queries_of_the_page_run(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3)))
    queries = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(queries) >= 5
    for query in queries:
        assert engage.query(query) is not None
