"""Engage knows at once what an action changed, by the target's own rules; the nightly run confirms it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psutil
import pytest
from piano_actions import pushes, rules
from piano_actions.aside import Aside
from piano_actions.messages import message_in, messages_of
from piano_actions.store import Store
from piano_actions.traits import LedgerBusy, Reckoner
from piano_engage_common.stops import Outage
from piano_engage_sandbox import actions
from piano_engage_sandbox.testing import serving

from tests.actions.conftest import Piano, settings_for
from tests.actions.nights import Nights
from tests.actions.test_upgrade import MONTHLY, PREMIUM, alone_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result
    from piano_actions.traits import Known

pytestmark = pytest.mark.xdist_group("actions, traits")  # the first night is once for all


@pytest.fixture(scope="module")
def piano() -> Iterator[Piano]:
    """One sandbox for all tests of this module, each of which takes another reader."""
    with serving(rows=600, switches={"engage.csv_delay": 0}) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def stopped(piano: Piano) -> list[str]:
    """Stop some readers' renewal before the first night; the ids of their subscriptions."""
    return [piano.stopping("Dynamic").id for _ in range(21)]


@pytest.fixture(scope="module")
def first(piano: Piano, stopped: list[str], tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The first night, once for all."""
    assert stopped
    nights = Nights(piano, tmp_path_factory.mktemp("first"))
    nights.run()
    return nights


@pytest.fixture
def settings(piano: Piano, first: Nights, tmp_path: Path) -> dict[str, Any]:
    return settings_for(piano, tmp_path, target_config=str(first.config), retry_attempts=2)


@pytest.fixture
def uid(piano: Piano, stopped: list[str]) -> str:
    """Take a reader who stopped, for one test alone."""
    return piano.uid(piano.world.entries[stopped.pop()])


def told(nights: Nights) -> list[str]:
    folder = nights.folder / "handover"
    return sorted(path.name for path in folder.glob("*.json")) if folder.exists() else []


def test_the_traits_change_with_the_click_and_the_night_confirms(
    first: Nights, ask: Callable[..., Result], uid: str
) -> None:
    before = first.holds(uid)
    assert (before["auto_renew"], before["lifecycle_stage"]) == ("false", "pending_cancel")
    assert before["segment_cancel_pending"] == "true"
    stale, files = first.log(), len(told(first))
    assert ask("resubscribe", "--user", uid).exit_code == 0
    after = first.holds(uid)
    assert (after["auto_renew"], after["lifecycle_stage"]) == ("true", "active")
    assert (after["segment_cancel_pending"], after["auto_renew_disablement_date"]) == ("false", "9999-12-31")
    assert after["next_billing_date"] != before["next_billing_date"] == "9999-12-31"
    changed = {trait for trait in after if after[trait] != before[trait]}
    assert {"subscription_id", "term_name", "total_charged", "offer_name", "access_expiration_date"} & changed == set()
    assert len(told(first)) == files + 1
    assert uid not in "".join(told(first))
    writes = first.writes(uid)
    for log in (stale, first.log()):  # an export from before the click, and one from after it
        first.run(log)
    assert (first.writes(uid), first.holds(uid), told(first)) == (writes, after, [])


def test_an_upgrade_shows_the_new_subscription_and_what_nobody_knows_yet_is_left_to_the_night(
    piano: Piano, first: Nights, ask: Callable[..., Result]
) -> None:
    entry = alone_on(piano, MONTHLY)
    uid = piano.uid(entry)
    before = first.holds(uid)
    done = json.loads(ask("upgrade", "do", "--user", uid, "--to", PREMIUM, "--json").stdout)
    after = first.holds(uid)
    assert after["subscription_id"] == done["details"]["subscription_id"] != before["subscription_id"]
    assert (after["term_name"], after["resource_name"]) == ("Premium monthly", "Digital Premium")
    assert after["billing_period"] == "1 month"
    left = {"total_charged", "offer_name", "offer_id", "template_id", "template_name", "promo_code"}
    assert {trait: after[trait] for trait in left} == {trait: before[trait] for trait in left}
    first.run()
    assert first.holds(uid) == after, "as long as the log is not newer"
    newest = {**first.log()[0], "subscription_id": "RCNEWEST0001", "user_id": "newest"}
    first.run([*first.log(), {**newest, "modify_time": "2099-01-01T00:00:00+00:00"}])
    night = first.holds(uid)
    assert {trait for trait in night if night[trait] != after[trait]} <= left | {"has_used_promo"}
    assert night["offer_name"].startswith("More of it")


def test_while_engage_is_down_it_is_kept_and_sent_later(
    piano: Piano, first: Nights, ask: Callable[..., Result], uid: str
) -> None:
    piano.server.control("POST", "faults", {"part": "engage", "status": 503})
    assert ask("resubscribe", "--user", uid).exit_code == 0, "the action is done all the same"
    (row,) = json.loads(ask("traits", "pending", "--json").stdout)
    assert (row["attempts"], row["problem"]) == (1, "Outage")
    assert uid not in json.dumps(row)
    piano.server.control("DELETE", "faults")
    assert first.holds(uid)["auto_renew"] == "false"
    assert json.loads(ask("traits", "send", "--json").stdout)["told"] == 1
    assert first.holds(uid)["auto_renew"] == "true"
    assert json.loads(ask("traits", "pending", "--json").stdout) == []


def test_all_who_wait_are_told_however_many_they_are(settings: dict[str, Any], ask: Callable[..., Result]) -> None:
    store = Store(settings["store_url"])
    with store.transaction() as connection:
        store.want_soon(connection, {f"nobody-{number}": 0.0 for number in range(1100)})
    store.close()
    assert json.loads(ask("traits", "send", "--json").stdout)["unknown"] == 1100


def test_what_is_told_is_not_told_again(first: Nights, ask: Callable[..., Result], uid: str) -> None:
    ask("resubscribe", "--user", uid)
    writes = first.writes(uid)
    assert json.loads(ask("traits", "push", "--user", uid, "--json").stdout) == {"status": "nothing"}
    assert json.loads(ask("traits", "push", "--user", uid, "--dry-run", "--json").stdout)["traits"] == {}
    assert first.writes(uid) == writes


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)], ids=["push", "dry run"])
def test_a_reader_of_whom_piano_knows_no_subscription_is_told_of_and_not_cleared(
    first: Nights, ask: Callable[..., Result], uid: str, dry_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistyped = ask("traits", "push", "--user", "no-such-reader", *dry_run)
    assert mistyped.exit_code == 65
    assert mistyped.stdout == "unknown: Piano knows no subscription of this reader: --user takes Piano's uid.\n"
    assert json.loads(ask("traits", "push", "--user", "no-such-reader", "--json", *dry_run).stdout) == {
        "status": "unknown"
    }
    writes = first.writes(uid)
    monkeypatch.setattr(pushes, "of_reader", lambda *_: [])  # Piano has a bad moment
    assert ask("traits", "push", "--user", uid, *dry_run).exit_code == 65
    assert first.writes(uid) == writes
    assert json.loads(ask("traits", "pending", "--json").stdout) == []


def test_a_dry_run_says_what_would_be_told(piano: Piano, first: Nights, ask: Callable[..., Result], uid: str) -> None:
    (entry,) = [one for one in piano.world.of_user(uid) if one.state.live]
    piano.server.call(lambda: actions.resume(piano.world, entry))
    writes = first.writes(uid)
    found = json.loads(ask("traits", "push", "--user", uid, "--dry-run", "--json").stdout)["traits"]
    assert (found["auto_renew"], found["lifecycle_stage"]) == ("true", "active")
    assert "term_name" not in found
    assert first.writes(uid) == writes


def test_while_a_run_has_the_ledger_it_waits(
    first: Nights, ask: Callable[..., Result], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise LedgerBusy

    with monkeypatch.context() as patch:
        patch.setattr("piano_actions.traits.look_all_up", busy)
        ask("resubscribe", "--user", uid)
        assert ask("traits", "push", "--user", uid).exit_code == 75
    (row,) = json.loads(ask("traits", "pending", "--json").stdout)
    assert row["problem"] == "the ledger is in use by a run"
    assert json.loads(ask("traits", "send", "--json").stdout)["told"] == 1
    assert first.holds(uid)["auto_renew"] == "true"


def test_while_a_shared_ledger_cannot_be_asked_it_waits(
    first: Nights, ask: Callable[..., Result], uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_self: object) -> None:
        msg = "the bucket does not answer"
        raise Outage(msg)

    with monkeypatch.context() as patch:
        patch.setattr("piano_actions.traits.Looking.file", away)
        assert ask("resubscribe", "--user", uid).exit_code == 0, "the action is done all the same"
    (row,) = json.loads(ask("traits", "pending", "--json").stdout)
    assert (row["attempts"], row["problem"]) == (1, "Outage")
    assert json.loads(ask("traits", "send", "--json").stdout)["told"] == 1
    assert first.holds(uid)["auto_renew"] == "true"


def test_who_had_another_subscription_before_is_told_too_and_only_what_was_read_is_handed_over(
    piano: Piano, first: Nights, ask: Callable[..., Result]
) -> None:
    entry = piano.find(
        lambda one: (
            one.state.status == "Active"
            and one.state.auto_renew
            and one.fate.term.type == "Dynamic"
            and any(not other.state.live for other in piano.of_user(one))
        )
    )
    uid = piano.uid(entry)
    piano.stop(entry)
    assert json.loads(ask("traits", "push", "--user", uid, "--json").stdout) == {"status": "told"}
    writes = first.writes(uid)
    (message,) = [one for one in map(message_in, messages_of(first.folder / "handover", uid)) if one]
    assert [row["subscription_id"] for row in message.subscriptions] == [entry.id]
    first.run()
    assert first.writes(uid) == writes, "the night confirms"


@pytest.mark.parametrize("where", ["_read", "_write"])
def test_a_fault_of_ours_with_one_reader_does_not_hold_up_the_others(
    first: Nights, settings: dict[str, Any], ask: Callable[..., Result], uid: str, stopped: list[str],
    monkeypatch: pytest.MonkeyPatch, where: str,
) -> None:  # fmt: skip
    piano = first.piano
    other = piano.uid(piano.world.entries[stopped.pop()])
    real = getattr(pushes.Pusher, where)

    def faulty(self: pushes.Pusher, user_id: str, *more: Any) -> Any:  # noqa: ANN401 - as the real ones
        if user_id == uid:
            raise TypeError
        return real(self, user_id, *more)

    store = Store(settings["store_url"])
    for one in (uid, other):
        (entry,) = [entry for entry in piano.world.of_user(one) if entry.state.live]
        piano.server.call(lambda entry=entry: actions.resume(piano.world, entry))
        store.want_push(one)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(pushes.Pusher, where, faulty)
        counts = json.loads(ask("traits", "send", "--json").stdout)
    assert (counts["told"], counts["later"]) == (1, 1)
    assert first.holds(other)["auto_renew"] == "true"
    (row,) = json.loads(ask("traits", "pending", "--json").stdout)
    assert (row["problem"], row["attempts"]) == ("TypeError", 1)
    assert json.loads(ask("traits", "send", "--json").stdout)["later"] == 0
    assert first.holds(uid)["auto_renew"] == "true"


def test_a_reader_with_whom_something_is_wrong_does_not_hold_up_the_others(
    piano: Piano, first: Nights, settings: dict[str, Any], ask: Callable[..., Result], uid: str, stopped: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = piano.uid(piano.world.entries[stopped.pop()])
    real = Reckoner.changes

    def changes(self: Reckoner, cases: dict[str, Any], *, now: int) -> dict[str, Any]:
        if uid in cases:
            msg = "Conversion Error"
            raise duckdb.ConversionException(msg)
        return real(self, cases, now=now)

    store = Store(settings["store_url"])
    for one in (uid, other):
        (entry,) = [one for one in piano.world.of_user(one) if one.state.live]
        piano.server.call(lambda entry=entry: actions.resume(piano.world, entry))
        store.want_push(one)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(Reckoner, "changes", changes)
        counts = json.loads(ask("traits", "send", "--json").stdout)
    assert (counts["told"], counts["later"]) == (1, 1)
    assert (first.holds(other)["auto_renew"], first.holds(uid)["auto_renew"]) == ("true", "false")
    assert json.loads(ask("traits", "send", "--json").stdout)["told"] == 1


def test_a_ledger_that_somebody_writes_is_busy(tmp_path: Path) -> None:
    import subprocess  # noqa: PLC0415 - only here
    import sys  # noqa: PLC0415 - only here

    from piano_actions.traits import look_up  # noqa: PLC0415 - only here
    from target_recurly_engage.contract import Contract  # noqa: PLC0415 - only here
    from target_recurly_engage.traits import Wording  # noqa: PLC0415 - only here

    path = tmp_path / "ledger.duckdb"
    script = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline()
        with pytest.raises(LedgerBusy):
            look_up(path, Contract(wording=Wording()), "u")
        holder.stdin.write(b"\n")
    assert look_up(tmp_path / "none.duckdb", Contract(wording=Wording()), "u").subscriptions == {}
    with pytest.raises(duckdb.Error):
        look_up(tmp_path / "ledger.duckdb", Contract(wording=Wording()), "u")


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "place", ["piano_actions.pushes.Pusher._write", "target_recurly_engage.handover.Message.leave"]
)
def test_a_crash_while_telling_tells_it_later(
    first: Nights, ask: Callable[..., Result], uid: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: object, **_named: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(place, crash)
        with pytest.raises(Crash):
            ask("resubscribe", "--user", uid)
    before = len(told(first))
    assert json.loads(ask("traits", "send", "--json").stdout)["told"] == 1
    assert (first.holds(uid)["auto_renew"], len(told(first))) == ("true", before + 1)


def test_without_engages_key_the_action_is_done_and_the_night_tells(
    piano: Piano, first: Nights, settings: dict[str, Any], ask: Callable[..., Result], tmp_path: Path
) -> None:
    target = json.loads(first.config.read_text()) | {"api_key": ""}
    (tmp_path / "keyless.json").write_text(json.dumps(target))
    (tmp_path / "config.json").write_text(json.dumps({**settings, "target_config": str(tmp_path / "keyless.json")}))
    entry = piano.stopping("Payment")
    assert ask("resubscribe", "--user", piano.uid(entry)).exit_code == 0
    assert json.loads(ask("traits", "pending", "--json").stdout) == []


# In a process of its own


@pytest.fixture
def aside(first: Nights) -> Iterator[Aside]:
    one = Aside(rules.target_config(str(first.config)))
    yield one
    one.close()


def children() -> list[psutil.Process]:
    """The processes that this one started for traits."""
    return [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]


def worked_out(piano: Piano, first: Nights, reckoner: Aside | Reckoner, uid: str) -> tuple[Known, dict[str, Any]]:
    """What the ledger knows of a reader, and what would be told of him if his renewal had just been switched on."""
    ledger = Path(json.loads(first.config.read_text())["ledger"])
    known = reckoner.look_up(ledger, [uid])[uid]
    held = [row | {"auto_renew": True} for row in known.subscriptions.values()]
    return known, reckoner.changes({uid: (known, held)}, now=piano.world.now)[uid].properties


def test_a_process_of_its_own_works_out_the_same(piano: Piano, first: Nights, aside: Aside, uid: str) -> None:
    config = rules.target_config(str(first.config))
    here = Reckoner(rules.contract(config), typed=config["ingest_values"] == "typed")
    try:
        known, told = worked_out(piano, first, here, uid)
        assert told["auto_renew"] == "true"
        assert worked_out(piano, first, aside, uid) == (known, told)
    finally:
        here.close()
    with pytest.raises(duckdb.Error):
        aside.look_up(first.config, [uid])


def test_another_process_begins_where_one_was_killed(piano: Piano, first: Nights, aside: Aside, uid: str) -> None:
    told = worked_out(piano, first, aside, uid)
    (one,) = children()
    one.kill()
    assert worked_out(piano, first, aside, uid) == told
    (other,) = children()
    assert other.pid != one.pid


def test_a_process_that_ends_again_and_again_is_told_of(first: Nights, uid: str) -> None:
    config = dict(rules.target_config(str(first.config)))
    del config["ingest_values"]  # so it fails as soon as it begins
    one = Aside(config)
    with pytest.raises(ChildProcessError, match="ended twice"):
        one.look_up(None, [uid])
    one.close()


SERVES = """
import sys, time
from piano_actions import rules
from piano_actions.aside import Aside
if __name__ == "__main__":
    one = Aside(rules.target_config(sys.argv[1]))
    known = one.look_up(None, ["u"])["u"]
    print("ready", flush=True)
    while True:
        if {busy}:
            one.changes({{"u": (known, [{{"subscription_id": "S", "user_id": "u", "aid": "A"}}])}}, now=0)
        else:
            time.sleep(1)
"""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_it_does_not_outlive_who_started_it(
    first: Nights,
    tmp_path: Path,
    busy: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    script = tmp_path / "serves.py"
    script.write_text(SERVES.format(busy=busy))
    command = [sys.executable, str(script), str(first.config)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        born = psutil.Process(parent.pid).children(recursive=True)
        (child,) = [one for one in born if "spawn_main" in " ".join(one.cmdline())]
        time.sleep(busy)
        child.send_signal(signal.SIGTERM)  # as systemd sends to all: it waits for who started it
        assert child.is_running()
        assert [one.path for one in child.open_files() if one.path.startswith(str(tmp_path))] == []
        parent.kill()
    _, alive = psutil.wait_procs(born, timeout=20)
    assert alive == []
    assert list(tmp_path.iterdir()) == [script]


def test_whoever_works_out_traits_keeps_nothing_on_disk_that_a_kill_could_leave(first: Nights, tmp_path: Path) -> None:
    script = tmp_path / "serves.py"
    script.write_text(SERVES.format(busy=True))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script), str(first.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        born = psutil.Process(parent.pid).children(recursive=True)
        for one in (*born, psutil.Process(parent.pid)):
            one.kill()
    psutil.wait_procs(born, timeout=20)
    assert list(tmp_path.iterdir()) == [script]
