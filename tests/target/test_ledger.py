"""The ledger: versions, what each brings to the next, and a page that tells of every table and column."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from piano_engage_common.stops import StorageFailed
from target_recurly_engage import ledger as module
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.migrations import MIGRATIONS, VERSION

from tests.target.conftest import ROUNDS

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
    with pytest.raises(StorageFailed, match=f"could not be brought from version {VERSION} to {VERSION + 2}"):
        opened(path)
    assert content(path) == before


WRITTEN = 10
"""The version from which on a file is written, and not acknowledged."""


def age(path: Path, version: int) -> None:
    """Make of a ledger one of an older version, with all that such a one can hold."""
    old = path.with_name("old.duckdb")
    with duckdb.connect(str(old)) as connection:
        for migration in MIGRATIONS[:version]:
            connection.execute(migration)
        connection.execute(f"CREATE TABLE ledger AS SELECT {version} AS version; ATTACH '{path}' AS new (READ_ONLY)")
        tables = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old' AND table_name <> 'ledger'"
        ).fetchall()
        for (table,) in tables:
            columns = [column for column, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]
            connection.execute(f"INSERT INTO {table} BY NAME SELECT {', '.join(columns)} FROM new.{table}")
        if version < WRITTEN:
            connection.execute("UPDATE deliveries SET status = 'acknowledged' WHERE status = 'written'")
    old.rename(path)


KILLED_IN_MIGRATION = """
import os
import duckdb
from target_recurly_engage import ledger
class Connection:
    def __init__(self, real):
        self.real, self.left = real, {left}
    def __getattr__(self, name):
        return getattr(self.real, name)
    def one_less(self):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), 9)
    def execute(self, *arguments):
        self.one_less()
        return self.real.execute(*arguments)
    def commit(self):
        self.one_less()
        self.real.commit()
        self.one_less()
class Ledger(ledger.Ledger):
    def _migrate(self):
        real = self.connection
        self.connection = Connection(real)
        super()._migrate()
        self.connection = real
from target_recurly_engage.shared import ledger as opening
opening.Ledger = Ledger
"""


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_migration_that_is_killed_at_any_statement_leaves_the_old_ledger_or_the_new_one(
    engage: Engage, version: int
) -> None:
    messages = engage.snapshot(engage.subscriptions(30))
    engage.run(messages)
    age(engage.ledger, version)
    before, kept = content(engage.ledger), engage.folder / "kept"
    shutil.copy(engage.ledger, kept)
    statements = 2 + 1 + (VERSION - version) + 2 + 2  # looking, the version's table, each, the version, the commit
    at_each = (
        version in {1, VERSION - 1} or ROUNDS > 1
    )  # the first one takes all steps, the last one is what comes next
    seen = []
    for left in range(1 if at_each else statements - 1, statements + 1):
        shutil.copy(kept, engage.ledger)
        killed = engage.run(messages, script=KILLED_IN_MIGRATION.format(left=left))
        assert (killed.code, killed.out) == (-signal.SIGKILL, ""), killed.log
        seen.append(content(engage.ledger)["ledger"] == [(VERSION,)])
        if not seen[-1]:
            assert content(engage.ledger) == before
    assert seen == [False] * (len(seen) - 1) + [True]
    again = engage.run(messages)
    assert (again.code, len(again.states), len(engage.files)) == (0, 1, 1), "what was told is not told again"
    assert "0 changes" in again.log
    whole = engage.folder / "whole.duckdb"
    opened(whole).close()
    with duckdb.connect(str(whole), read_only=True) as connection:
        shape = connection.sql("SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
    assert set(shape) <= set(engage.query("SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"))


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
