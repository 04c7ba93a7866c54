"""What somebody reads who asks by hand: every command has help, every refusal says what to do next, no traceback."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from piano_actions import desk as desk_module
from piano_actions.cli import main
from piano_actions.cli.asking import NEXT, Context
from piano_actions.store import InFlight, ReaderBusy, database
from piano_actions.words import SENTENCES

from tests.actions.test_promos import buyer
from tests.actions.test_service import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from tests.actions.conftest import Piano

    Ask = Callable[..., Result]


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    assert command.help
    mute = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
    assert mute == []
    if not isinstance(command, click.Group) and names != ("serve",):
        assert "--json" in [option for one in command.params for option in one.opts]


def test_what_to_do_next_is_said_of_reasons_that_there_are() -> None:
    assert set(NEXT) <= set(SENTENCES)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("resubscribe", "--user", "an@example.com"), "Piano's uid"),
        (("resubscribe", "--user", "UID", "--subscription", "RC1"), "without --subscription"),
        (("upgrade", "do", "--user", "UID", "--to", "nonsense"), "upgrade options"),
        (("promo", "eligible", "--user", "UID", "--promotion", "nonsense"), "promo list"),
        (("promo", "eligible", "--user", "UID", "--promotion", "BACK30", "--term", "nonsense"), "upgrade options"),
        (("promo", "list", "--term", "nonsense"), "upgrade options"),
        (("promo", "pick", "--term", "nonsense"), "upgrade options"),
        (("webhooks", "replay", "nonsense"), "webhooks list"),
    ],
    ids=lambda one: " ".join(one[:2]) if isinstance(one, tuple) else "",
)
def test_a_refusal_says_what_to_do_next_and_leaves_with_65(
    piano: Piano, ask: Ask, settings: dict[str, Any], tmp_path: Path,
    caplog: pytest.LogCaptureFixture, given: tuple[str, ...], says: str,
) -> None:  # fmt: skip
    target = {"ledger": "l", "app_id": "a", "api_key": "k", "api_url": piano.server.url}
    (tmp_path / "target.json").write_text(json.dumps(target))
    (tmp_path / "config.json").write_text(json.dumps({**settings, "target_config": str(tmp_path / "target.json")}))
    uid = piano.uid(buyer(piano, lambda one: one.state.status == "Active"))
    for more in ([], ["--json"]):
        answer = ask(*[uid if one == "UID" else one for one in given], *more)
        assert answer.exit_code == 65, answer.output
        assert says in answer.stderr + caplog.text
        caplog.clear()
        if more and answer.stdout:
            json.loads(answer.stdout)


def test_no_change_leads_away_from_a_term_that_is_none(ask: Ask) -> None:
    answer = ask("upgrade", "options", "--from", "nonsense")
    assert (answer.exit_code, "without --from" in answer.stderr) == (0, True)


def test_a_refusal_in_words_has_its_reason(ask: Ask) -> None:
    words = ask("resubscribe", "--user", "nobody").stdout.splitlines()
    assert words[:2] == ["refused: We do not know this reader.", "  reason: unknown_user"]


@pytest.mark.parametrize("url", [None, "http://example.com/{code}"])
def test_no_code_is_taken_for_a_link_that_cannot_be_made(
    piano: Piano, ask: Ask, settings: dict[str, Any], tmp_path: Path, url: str | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**settings, "checkout_url": url}))
    given = ("promo", "code", "--user", piano.uid(buyer(piano)), "--promotion", "SUMMER-", "--snippet")
    assert ask(*given).exit_code == 78
    assert json.loads(ask("audit", "--json").stdout) == []


@pytest.mark.parametrize("why", [InFlight, ReaderBusy])
def test_a_reader_who_is_busy_is_no_fault_of_ours(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: type[Exception]
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise why

    monkeypatch.setattr(desk_module.Desk, "run", busy)
    answer = ask("resubscribe", "--user", "u")
    assert answer.exit_code == 75
    assert "audit" in caplog.text


def test_notes_that_cannot_be_read_are_named(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**settings, "store_url": f"sqlite:///{tmp_path / 'locked.db'}"}))

    def look_while_it_is_locked() -> None:
        with Context(path).store() as store, closing(sqlite3.connect(tmp_path / "locked.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            store.audit(limit=1)

    with pytest.raises(SystemExit) as ended:
        look_while_it_is_locked()
    assert ended.value.code == 74
    assert "store_url: the notes cannot be read or written: database is locked" in caplog.text


@pytest.mark.parametrize("content", ["[1]", "null", "no json", '"text"'])
def test_a_file_of_settings_that_is_none_is_named(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert ask("audit").exit_code == 78
    assert "config.json" in caplog.text


def test_settings_that_cannot_be_used_are_named_as_they_are_set(
    ask: Ask, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.json"
    for changes, code, says in (
        ({"region": "mars"}, 78, "PIANO_ACTIONS_REGION"),
        ({"target_config": str(tmp_path / "none.json")}, 78, "target_config /"),
        ({"store_url": f"sqlite:///{tmp_path}/none/actions.db"}, 74, "store_url: "),
    ):
        path.write_text(json.dumps({**settings, **changes}))
        assert ask("traits", "push", "--user", "u").exit_code == code
        assert says in caplog.text
        assert "--config /" not in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "given",
    [
        ("audit", "--limit", "-1"), ("webhooks", "list", "--limit", "0"), ("webhooks", "replay"),
        ("webhooks", "replay", "--days", "-3"), ("webhooks", "replay", "--days", "1", "--quarantine"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_numbers_that_make_no_sense_are_turned_away(ask: Ask, given: tuple[str, ...]) -> None:
    answer = ask(*given)
    assert (answer.exit_code, "Error: " in answer.stderr) == (2, True)


def test_the_service_says_where_it_listens_and_where_it_cannot(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    program = Path(sys.executable).with_name("piano-actions")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        path.write_text(json.dumps({**settings, "secrets": SECRET, "port": port}))
        done = subprocess.run([program, "--config", path, "serve"], capture_output=True, text=True, check=False)
        assert (done.returncode, f"127.0.0.1:{port}" in done.stderr) == (78, True)
        assert "PIANO_ACTIONS_PORT" in done.stderr
        assert "serving on" not in done.stderr
        assert "Traceback" not in done.stderr
    path.write_text(json.dumps({**settings, "secrets": SECRET, "port": 0}))
    with subprocess.Popen([program, "--config", path, "serve"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        line = process.stderr.readline()
        process.terminate()
        assert line.startswith("serving on http://127.0.0.1:")
        assert not line.rstrip().endswith(":0")


@pytest.mark.parametrize("key", ["", "k" * 129, "k\n"])
def test_a_key_that_the_notes_cannot_hold_is_a_wrong_command_line(ask: Callable[..., Result], key: str) -> None:
    for command in (("resubscribe",), ("promo", "converted")):
        found = ask(*command, "--user", "u", "--key", key)
        assert (found.exit_code, "1 to 128 visible characters" in found.stderr) == (2, True)
