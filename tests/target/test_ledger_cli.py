"""`recurly-engage ledger`: show, backup, restore, move and compact, of a local ledger and of a shared one."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner
from piano_engage_common.stops import ConfigRefused, InputRefused, NoInput, StorageFailed
from target_recurly_engage.cli import main
from target_recurly_engage.ledger import Ledger

from tests.target.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result
    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage

pytestmark = pytest.mark.usefixtures("one_session")
EVENT = "2026-03-28T06:00:00+00:00"


@pytest.fixture
def shelf(server: Server, request: pytest.FixtureRequest) -> Shelf:
    return Shelf.of(server, request)


@pytest.fixture(scope="module")
def template(make_engage: Callable[[], Engage]) -> Engage:
    """Twenty readers, of whom Engage was told in one run."""
    engage = make_engage()
    assert engage.run(engage.snapshot([one | {"aid": "AID"} for one in engage.subscriptions(20)])).code == 0
    return engage


@pytest.fixture
def loaded(engage: Engage, template: Engage) -> Engage:
    engage.ledger.write_bytes(template.ledger.read_bytes())
    return engage


def ask(engage: Engage, *arguments: object, **config: object) -> Result:
    path = engage.folder / "cli.json"
    path.write_text(json.dumps(engage.config | config), encoding="utf-8")
    return CliRunner().invoke(main, ["--config", str(path), "ledger", *map(str, arguments)], catch_exceptions=False)


def answer(engage: Engage, *arguments: object, **config: object) -> Any:  # noqa: ANN401 - JSON
    done = ask(engage, *arguments, "--json", **config)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def note_run(engage: Engage) -> None:
    """As a run that came after the backup leaves it."""
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute(f"INSERT INTO runs VALUES ('later', '{EVENT}', '{EVENT}', 'finished', '{{}}')")


# Show


def test_show_tells_what_is_in_it(loaded: Engage) -> None:
    told = answer(loaded, "show")
    assert (told["ledger"], told["shared"]) == (str(loaded.ledger), None)
    assert (told["rows"]["subscriptions"], told["rows"]["delivered"], told["rows"]["runs"]) == (20, 20, 1)
    assert told["last_run"]["status"] == "finished"
    words = ask(loaded, "show").stdout
    assert "subscriptions 20" in words
    assert "finished" in words


@pytest.mark.parametrize("command", [["show"], ["backup", "b.duckdb"], ["compact"], ["move", "elsewhere.duckdb"]])
def test_where_there_is_no_ledger_nothing_is_made(command: list[str], engage: Engage) -> None:
    assert ask(engage, *command).exit_code == NoInput.exit_code
    assert not engage.ledger.exists()


def test_a_ledger_in_use_is_left_alone(loaded: Engage, tmp_path: Path) -> None:
    ledger = Ledger(loaded.ledger, memory_limit="100MB")
    try:
        from tests import warm  # noqa: PLC0415 - another process, for a lock is a process's

        path = loaded.folder / "cli.json"
        path.write_text(json.dumps(loaded.config), encoding="utf-8")
        for command in (["backup", tmp_path / "b"], ["restore", loaded.ledger], ["compact"]):
            done = warm.run("recurly-engage", ["--config", path, "ledger", *command])
            assert (done.returncode, b"in use" in done.stderr) == (StorageFailed.exit_code, True), command
    finally:
        ledger.close()


def test_a_backup_waits_for_the_run_that_has_the_ledger(loaded: Engage, tmp_path: Path) -> None:
    from tests import warm  # noqa: PLC0415 - another process, for a lock is a process's

    path = loaded.folder / "cli.json"
    path.write_text(json.dumps(loaded.config | {"ledger_wait": 60}), encoding="utf-8")
    ledger = Ledger(loaded.ledger, memory_limit="100MB")
    threading.Timer(3.5, ledger.close).start()  # longer than one waits for somebody who only looks
    done = warm.run("recurly-engage", ["--config", path, "ledger", "backup", tmp_path / "backup.duckdb"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "backup.duckdb").exists()


# Backup and restore


def test_a_backup_is_a_ledger_with_the_same_rows_and_never_overwrites(loaded: Engage, tmp_path: Path) -> None:
    backup, before = tmp_path / "backups" / "monday.duckdb", loaded.dump(without=())
    told = answer(loaded, "backup", backup)
    assert (told["rows"]["delivered"], told["bytes"]) == (20, backup.stat().st_size)
    original, loaded.config["ledger"] = loaded.ledger.read_bytes(), str(backup)
    assert answer(loaded, "show")["rows"]["subscriptions"] == 20
    assert ask(loaded, "backup", backup).exit_code == ConfigRefused.exit_code
    loaded.ledger.write_bytes(backup.read_bytes())
    assert loaded.dump(without=()) == before
    assert original


def test_a_restore_after_which_nobody_knows_what_was_told_tells_every_reader(loaded: Engage, tmp_path: Path) -> None:
    backup = tmp_path / "backup.duckdb"
    answer(loaded, "backup", backup)
    note_run(loaded)
    done = ask(loaded, "restore", backup)
    assert done.exit_code == 0
    assert "20 subscriptions, 20 readers" in done.stdout
    assert "full-refresh" in done.stdout
    assert loaded.query("SELECT count(*) FROM runs") == [(1,)]
    (aside,) = loaded.folder.glob("ledger.duckdb.before-*")
    with duckdb.connect(str(aside), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
    assert loaded.query("SELECT count(DISTINCT user_id) FROM overtaken WHERE after <= now()") == [(20,)]
    run = loaded.run(loaded.snapshot([one | {"aid": "AID"} for one in loaded.subscriptions(20)]))
    assert run.code == 0
    assert len(loaded.sent()) == 20


@pytest.mark.parametrize(("later", "flags"), [(False, []), (True, ["--as-is"])])
def test_a_restore_believes_a_backup_where_nothing_was_told_since(
    later: bool,  # noqa: FBT001 - a parameter of the test
    flags: list[str],
    loaded: Engage,
    tmp_path: Path,
) -> None:
    backup = tmp_path / "backup.duckdb"
    answer(loaded, "backup", backup)
    if later:
        note_run(loaded)
    assert answer(loaded, "restore", backup, *flags)["told_again"] is False
    assert loaded.query("SELECT count(*) FROM overtaken") == [(0,)]


def test_a_restore_where_the_ledger_is_broken_or_gone(loaded: Engage, tmp_path: Path) -> None:
    backup = tmp_path / "backup.duckdb"
    answer(loaded, "backup", backup)
    loaded.ledger.write_bytes(b"\0" * 50_000)
    assert answer(loaded, "restore", backup)["told_again"] is True
    loaded.ledger.unlink()
    told = answer(loaded, "restore", backup)
    assert (told["told_again"], told["aside"], told["readers"]) == (True, None, 20)


def test_who_was_erased_since_does_not_come_back(loaded: Engage, tmp_path: Path) -> None:
    backup = tmp_path / "backup.duckdb"
    answer(loaded, "backup", backup)
    with duckdb.connect(str(loaded.ledger)) as connection:
        connection.execute("INSERT INTO salt VALUES ('salt')")
        connection.execute(f"INSERT INTO erased VALUES (sha256('saltu7'), 'done', '{EVENT}', '{{}}')")
    note_run(loaded)
    assert answer(loaded, "restore", backup)["readers"] == 19
    for table in ("subscriptions", "delivered", "overtaken"):
        assert loaded.query(f"SELECT count(*) FROM {table} WHERE user_id = 'u7'") == [(0,)]
    assert loaded.query("SELECT count(*) FROM erased") == [(1,)]


def test_what_is_no_backup_of_this_ledger_changes_nothing(loaded: Engage, tmp_path: Path) -> None:
    before = loaded.ledger.read_bytes()
    assert ask(loaded, "restore", tmp_path / "none.duckdb").exit_code == NoInput.exit_code
    bad, other = tmp_path / "bad.duckdb", tmp_path / "other.duckdb"
    bad.write_text("no ledger", encoding="utf-8")
    assert ask(loaded, "restore", bad).exit_code == InputRefused.exit_code
    answer(loaded, "backup", other)
    with duckdb.connect(str(other)) as connection:
        connection.execute("UPDATE subscriptions SET aid = 'ANOTHER'")
    assert ask(loaded, "restore", other).exit_code == InputRefused.exit_code
    assert ask(loaded, "restore").exit_code == 2
    assert ask(loaded, "restore", "--version", "000001-x").exit_code == 2
    assert loaded.query("SELECT DISTINCT aid FROM subscriptions") == [("AID",)]
    assert len(loaded.ledger.read_bytes()) == len(before)


# Compact


def test_compact_leaves_the_rows_and_gives_the_room_back(loaded: Engage) -> None:
    for change in (
        "CREATE TABLE ballast AS SELECT range, random() AS number FROM range(400000)",
        f"INSERT INTO runs VALUES ('later', '{EVENT}', '{EVENT}', 'finished', '{{}}')",  # lies behind it in the file
        "DROP TABLE ballast",
    ):
        with duckdb.connect(str(loaded.ledger)) as connection:
            connection.execute(change)
    before, mode = loaded.dump(without=()), loaded.ledger.stat().st_mode
    told = answer(loaded, "compact")
    assert told["bytes_after"] == loaded.ledger.stat().st_size < told["bytes_before"] / 2
    assert (loaded.dump(without=()), loaded.ledger.stat().st_mode) == (before, mode)
    assert [path.name for path in loaded.folder.glob("ledger.duckdb*")] == ["ledger.duckdb"]


# Move, and all of it on S3


def test_a_ledger_moves_to_s3_and_back_and_the_old_place_says_where_it_is(
    loaded: Engage, shelf: Shelf, tmp_path: Path
) -> None:
    before = loaded.dump(without=())
    settings = shelf.settings(tmp_path / "cache")
    shared, local = settings.pop("ledger"), str(loaded.ledger)
    told = answer(loaded, "move", shared, **settings)
    assert (told["rows"]["delivered"], shelf.query("SELECT count(*) FROM delivered")) == (20, [(20,)])
    refused = loaded.run(loaded.snapshot(loaded.subscriptions(3)), **settings)
    assert refused.code == StorageFailed.exit_code
    assert f"was moved to {shared}" in refused.errors
    assert ask(loaded, "move", shared, ledger=str(tmp_path / "no.duckdb"), **settings).exit_code == NoInput.exit_code
    assert answer(loaded, "compact", ledger=shared, **settings)["bytes_before"] > 0
    answer(loaded, "move", local, ledger=shared, **settings)
    assert loaded.dump(without=()) == before
    away = ask(loaded, "compact", ledger=shared, **settings)
    assert away.exit_code == StorageFailed.exit_code
    answer(loaded, "move", shared, **settings)  # and there again
    assert shelf.current["moved_to"] is None
    assert answer(loaded, "show", ledger=shared, **settings)["rows"]["subscriptions"] == 20


def test_a_place_that_has_a_ledger_is_not_overwritten(loaded: Engage, template: Engage, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    other.write_bytes(template.ledger.read_bytes())
    assert ask(loaded, "move", other).exit_code == ConfigRefused.exit_code
    assert ask(loaded, "move", loaded.ledger).exit_code == ConfigRefused.exit_code
    assert loaded.query("SELECT count(*) FROM delivered") == [(20,)]


def test_an_earlier_version_on_s3_is_restored_also_where_the_newest_is_broken(
    loaded: Engage, shelf: Shelf, tmp_path: Path
) -> None:
    settings = shelf.settings(tmp_path / "cache")
    shared = settings.pop("ledger")
    answer(loaded, "move", shared, **settings)
    first = shelf.current["current"]["name"]
    answer(loaded, "compact", ledger=shared, **settings)
    backup = tmp_path / "backup.duckdb"
    assert answer(loaded, "backup", backup, ledger=shared, **settings)["rows"]["delivered"] == 20
    broken = shelf.current["current"]["name"]
    shelf.put(f"versions/{broken}.duckdb", b"another file")
    elsewhere = settings | {"ledger": shared, "ledger_cache": str(tmp_path / "other")}
    told = answer(loaded, "restore", "--version", first, **elsewhere)
    assert (told["readers"], told["told_again"]) == (20, True)
    assert shelf.current["current"]["base"] == broken
    assert shelf.query("SELECT count(*) FROM overtaken") == [(20,)]
    assert ask(loaded, "restore", "--version", "000009-none", **elsewhere).exit_code == NoInput.exit_code
    assert answer(loaded, "restore", backup, "--as-is", **elsewhere)["told_again"] is False
    assert shelf.query("SELECT count(*) FROM overtaken") == [(0,)]
