"""The bad days of the service, over sockets on both sides: what the caller is told, what Piano is asked for."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import requests
from piano_actions import desk as desk_module
from piano_actions.inbox import Inbox
from piano_actions.service import bodies
from piano_actions.store import Request, Store
from piano_actions.webhooks import wrap
from piano_actions.words import SENTENCES
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving

from tests.actions.conftest import Piano, desk_of, settings_for
from tests.actions.test_promos import CREATE, SUMMER, buyer, take_all
from tests.actions.test_resubscribe import AFTER_THE_WORK, RESUME, UPDATE, ended, renewing, writes
from tests.actions.test_service import SECRET, Service, served
from tests.actions.test_upgrade import CAN, CANCEL, DO, MONTHLY, PREMIUM, PREMIUM_YEARLY, STATUS, YEARLY, alone_on
from tests.actions.test_webhooks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_sandbox.world import Entry

OLD_SECRET, NEW_SECRET = "the-secret-of-last-year", "the-secret-of-this-year"
CODES = (2, 8001, 8005, 1012)


@pytest.fixture(scope="module")
def bad() -> Iterator[Piano]:
    """Piano with two applications; the tests take readers of the first one."""
    with serving(apps=(App(aid="OneAppId01", rows=1200), App(aid="TwoAppId02", rows=60))) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def settings(bad: Piano, folder: Path) -> dict[str, Any]:
    sandbox = bad.server.sandbox
    target = folder / "target.json"
    target.write_text(json.dumps({"app_id": sandbox.app_id, "api_key": sandbox.api_key, "api_url": bad.server.url}))
    return settings_for(
        bad, folder, target_config=str(target), push=False, tracker="t1", private_key=bad.app.private_key,
        actions_per_second=0, request_timeout=1, retry_attempts=2, make_codes=True, upgrade_wait=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def running(bad: Piano, settings: dict[str, Any], folder: Path) -> Iterator[Service]:
    store = Store(settings["store_url"])
    take_all(bad, store)  # so that codes of the pool have to be made
    store.close()
    with served(settings, folder) as one:
        yield one


@pytest.fixture
def service(bad: Piano, running: Service) -> Iterator[Service]:
    yield running
    bad.server.control("DELETE", "faults")


def asked_for(piano: Piano) -> int:
    """Count what Piano was asked to change."""
    return writes(piano) + sum(piano.calls(path) for path in (DO, CANCEL, CREATE))


def told(service: Service, action: str, body: dict[str, Any], **headers: str) -> tuple[str, str]:
    status, answer = service.ask(action, body, **headers)
    assert status == 200, answer
    return answer["status"], answer["reason"]


# Who asks


def test_a_secret_is_replaced_in_two_steps_and_the_old_one_is_stale_then(
    bad: Piano, settings: dict[str, Any], tmp_path: Path
) -> None:
    def answers(secrets: str) -> list[int]:
        with served({**settings, "secrets": secrets}, tmp_path) as one:
            found = []
            for secret in (OLD_SECRET, NEW_SECRET):
                one.headers = {"Authorization": f"Bearer {secret}"}
                found.append(one.post("resubscribe", {"user_id": "nobody"}).status_code)
            return found

    before = asked_for(bad)
    assert answers(OLD_SECRET) == [200, 401]
    assert answers(f"{OLD_SECRET}, {NEW_SECRET}") == [200, 200]
    assert answers(NEW_SECRET) == [401, 200]
    assert asked_for(bad) == before


# What cannot be done, and is not


def refusals(piano: Piano) -> Iterator[tuple[str, dict[str, str], tuple[str, str]]]:
    """Give what is asked for, by whom, and what has to be told."""
    other = piano.server.sandbox.piano["TwoAppId02"].world
    theirs = next(iter(other.entries.values()))
    active, gone = (
        piano.find(lambda one: renewing(one) and piano.alone(one)),
        piano.find(lambda one: ended(one) and piano.alone(one)),
    )
    yearly, premium = alone_on(piano, YEARLY), alone_on(piano, PREMIUM_YEARLY)

    def of(entry: Entry, **more: str) -> dict[str, str]:
        return {"user_id": piano.uid(entry), **more}

    nobody = {"user_id": "nobody", "to_term": PREMIUM, "promotion": SUMMER}
    for action in ("resubscribe", "upgrade", "upgrade_cancel", "promo_code"):
        yield action, nobody, ("refused", "unknown_user")
    for action in ("resubscribe", "upgrade", "upgrade_cancel"):
        more = {"to_term": PREMIUM}
        yield action, of(gone, subscription_id=active.id, **more), ("refused", "not_yours")
        yield action, of(gone, subscription_id="RCNOBODY0001", **more), ("refused", "unknown_subscription")
        yield action, of(gone, subscription_id=theirs.id, **more), ("refused", "unknown_subscription")
        uid = other.person(theirs.reader).uid
        away = {"user_id": uid, "subscription_id": theirs.id, **more}
        yield action, away, ("refused", "unknown_subscription")
    yield "resubscribe", of(active), ("already", "auto_renew_on")
    yield "resubscribe", of(active, subscription_id=active.id), ("already", "auto_renew_on")
    yield "resubscribe", of(gone), ("refused", "nothing_to_resume")
    yield "resubscribe", of(gone, subscription_id=gone.id), ("refused", "ended")
    yield "upgrade", of(gone, to_term=PREMIUM), ("refused", "nothing_to_change")
    yield "upgrade", of(gone, to_term=PREMIUM, subscription_id=gone.id), ("refused", "ended")
    yield "upgrade", of(premium, to_term=PREMIUM_YEARLY), ("already", "on_term")
    yield "upgrade", of(yearly, to_term=PREMIUM), ("refused", "not_configured")
    yield "upgrade", of(yearly, to_term="Gold"), ("refused", "unknown_term")
    yield "upgrade", of(yearly, to_term="ж&aid=x"), ("refused", "unknown_term")
    yield "upgrade_cancel", of(yearly), ("refused", "no_change_pending")
    yield "promo_code", of(yearly, promotion="nonsense"), ("refused", "promotion_unknown")


def test_what_cannot_be_done_is_said_and_piano_is_asked_for_nothing(bad: Piano, service: Service) -> None:
    before = asked_for(bad)
    for action, body, expected in refusals(bad):
        assert told(service, action, body) == expected, (action, body)
    assert asked_for(bad) == before


def test_of_a_subscription_of_somebody_else_the_answer_is_that_of_none(bad: Piano, service: Service) -> None:
    one, other = bad.find(renewing), bad.find(lambda one: ended(one) and bad.alone(one))
    answers = [
        service.ask(
            "resubscribe", {"user_id": bad.uid(other), "subscription_id": subscription_id}, Idempotency_Key=uuid4().hex
        )[1]
        for subscription_id in (one.id, "RCNOBODY0001")
    ]
    assert answers[0]["message"] == answers[1]["message"]
    assert [set(answer["details"]) for answer in answers] == [{"subscription_id"}] * 2


def test_a_double_that_tells_more_of_it_is_found_out(
    bad: Piano, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SENTENCES, "not_yours", "This subscription is somebody else's.")
    with pytest.raises(AssertionError):
        test_of_a_subscription_of_somebody_else_the_answer_is_that_of_none(bad, service)


# Piano says 200 and no


def no(code: int) -> dict[str, Any]:
    return {"status": 200, "body": json.dumps({"code": code, "ts": 1, "message": "No"})}


@pytest.mark.parametrize("code", CODES)
def test_a_no_to_a_write_is_a_refusal_with_pianos_code_and_the_write_is_not_repeated(
    bad: Piano, service: Service, code: int
) -> None:
    changed = "cannot_change" if code == 1012 else "piano_refused"
    withdrawn = "cannot_withdraw" if code == 1012 else "piano_refused"
    monthly, yearly = alone_on(bad, MONTHLY), alone_on(bad, YEARLY)
    begun = {"user_id": bad.uid(yearly), "to_term": PREMIUM_YEARLY, "offer": f"{code}"}
    assert told(service, "upgrade", begun)[0] == "pending"
    cases = [
        ("resubscribe", {"user_id": bad.uid(bad.stopping("Dynamic"))}, RESUME, "piano_refused"),
        ("resubscribe", {"user_id": bad.uid(bad.stopping("Payment"))}, UPDATE, "piano_refused"),
        ("upgrade", {"user_id": bad.uid(monthly), "to_term": PREMIUM}, DO, changed),
        ("upgrade_cancel", {"user_id": bad.uid(yearly)}, CANCEL, withdrawn),
        ("promo_code", {"user_id": bad.uid(buyer(bad)), "promotion": SUMMER}, CREATE, "piano_refused"),
    ]
    for action, body, path, reason in cases:
        bad.fault(path, **no(code))
        before = asked_for(bad)
        status, answer = service.ask(action, body, Idempotency_Key=f"{action}-{path.replace('/', '-')}-{code}")
        assert (status, answer["status"], answer["reason"], answer["details"]["code"]) == (200, "refused", reason, code)
        assert asked_for(bad) == before + 1
    bad.server.control("DELETE", "faults")
    assert told(service, "upgrade_cancel", {"user_id": bad.uid(yearly), "offer": f"{code}"})[0] == "done"


NOT_FOUND, NO_OPTION = 8005, 1012
SAID: dict[str, dict[int, str]] = {
    "subscription/list": {NOT_FOUND: "nothing_to_resume"},
    "subscription/get": {NOT_FOUND: "unknown_subscription"},
    CAN: {8001: "cannot_change", NOT_FOUND: "cannot_change", NO_OPTION: "cannot_change"},
    STATUS: {NOT_FOUND: "no_change_pending", NO_OPTION: "no_change_pending"},
    "promotion/list": {},
}
"""What a code means that answers a question; others stand for settings that are wrong, and are answered with 502."""


@pytest.mark.parametrize("code", CODES)
def test_a_no_to_a_question_is_no_fault_of_ours_and_nothing_is_changed(bad: Piano, service: Service, code: int) -> None:
    dynamic, monthly = bad.stopping("Dynamic"), alone_on(bad, MONTHLY)
    questions = {
        "subscription/list": ("resubscribe", {"user_id": bad.uid(dynamic)}),
        "subscription/get": ("resubscribe", {"user_id": bad.uid(dynamic), "subscription_id": dynamic.id}),
        CAN: ("upgrade", {"user_id": bad.uid(monthly), "to_term": PREMIUM}),
        STATUS: ("upgrade_cancel", {"user_id": bad.uid(monthly)}),
        "promotion/list": ("promo_code", {"user_id": bad.uid(monthly), "promotion": SUMMER}),
    }
    before = asked_for(bad)
    for path, (action, body) in questions.items():
        bad.fault(path, **no(code))
        status, answer = service.ask(action, body, Idempotency_Key=f"q{code}-{path.replace('/', '-')}")
        if code in SAID[path]:
            assert (status, answer["status"], answer["reason"]) == (200, "refused", SAID[path][code])
        else:
            assert (status, answer["message"].partition(",")[0]) == (502, "Piano or Engage refuses us")
        bad.server.control("DELETE", "faults")
    assert asked_for(bad) == before


# Piano did it, and did not say so


@pytest.mark.parametrize("how", ["reset", "no answer in time", "502 with HTML", "code 1"])
def test_what_piano_did_without_telling_is_done_once(bad: Piano, service: Service, how: str) -> None:
    yearly = alone_on(bad, YEARLY)
    cases = [
        ("resubscribe", bad.stopping("Dynamic"), {}, RESUME, "done"),
        ("resubscribe", bad.stopping("Payment"), {}, UPDATE, "done"),
        ("upgrade", alone_on(bad, MONTHLY), {"to_term": PREMIUM}, DO, "done"),
        ("upgrade", yearly, {"to_term": PREMIUM_YEARLY}, DO, "pending"),
        ("upgrade_cancel", yearly, {}, CANCEL, "done"),
    ]
    for action, entry, body, path, expected in cases:
        bad.fault(path, when="after", **AFTER_THE_WORK[how])
        before = asked_for(bad)
        assert told(service, action, {"user_id": bad.uid(entry), **body, "offer": how})[0] == expected
        assert asked_for(bad) == before + 1
        bad.server.control("DELETE", "faults")


# Engage, and the store


def test_while_engage_is_down_a_conversion_is_not_told_and_its_key_stays_free(bad: Piano, service: Service) -> None:
    body = {"user_id": "reader-ж", "offer": "down"}
    bad.server.control("POST", "faults", {"part": "engage", "status": 503})
    answer = service.post("conversion", body)
    assert (answer.status_code, answer.json()["error"], answer.headers["Retry-After"]) == (503, "outage", "10")
    bad.server.control("DELETE", "faults")
    assert told(service, "conversion", body) == ("done", "conversion_told")
    pings = [one for one in bad.server.control("GET", "requests?part=engage") if one["path"] == "/ping"]
    assert len(pings) == 3, "two attempts, and the one that was heard"


def test_without_a_store_nothing_is_begun(bad: Piano, settings: dict[str, Any], tmp_path: Path) -> None:
    entry = bad.stopping("Dynamic")
    url = f"sqlite:///{tmp_path / 'gone.db'}"
    with served({**settings, "store_url": url}, tmp_path) as service:
        store = Store(url)
        with store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE actions RENAME TO away")
        before = asked_for(bad)
        answer = service.post("resubscribe", {"user_id": bad.uid(entry)})
        assert (answer.status_code, answer.json()["error"], answer.headers["Retry-After"]) == (503, "store", "10")
        assert asked_for(bad) == before
        with store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO actions")
        store.close()
        assert told(service, "resubscribe", {"user_id": bad.uid(entry)})[0] == "done"


def test_a_fault_of_ours_in_one_action_holds_up_no_other(
    bad: Piano, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(desk_module._ACTIONS, "conversion", fault)
    first, second = bad.stopping("Dynamic"), bad.stopping("Payment")
    desk = desk_of({**settings, "store_url": f"sqlite:///{tmp_path / 'fault.db'}"})
    with pytest.raises(ZeroDivisionError):
        desk.run(Request("conversion", bad.uid(first)))
    assert desk.run(Request("resubscribe", bad.uid(first))).status == "done"
    bad.fault(UPDATE, reset=True, times=1)
    assert desk.run(Request("resubscribe", bad.uid(second))).status == "unknown"
    assert [one.status for one in desk.recover()] == ["done"], "the conversion, which is older, fails again"
    with pytest.raises(ZeroDivisionError):
        desk.run(Request("conversion", bad.uid(first), {"tracker": "other"}))
    desk.store.close()


# Junk


GOOD = f"POST /actions/resubscribe HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n".encode()
BODY = b'{"user_id": "nobody"}'
LENGTH = b"Content-Length: 21\r\n"
JUNK: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "a query of junk": (GOOD.replace(b"be ", b"be?user_id=%ff%00&x[]=1&;=&&a=b=c# ") + LENGTH, (200, 400)),
    "a query of 10 kB": (GOOD.replace(b"be ", b"be?" + b"q=1&" * 2500 + b" ") + LENGTH, (200,)),
    "200 other headers": (GOOD + b"".join(b"X-%d: %s\r\n" % (n, b"j" * 50) for n in range(200)) + LENGTH, (200,)),
    "a header of 300 kB": (GOOD + b"X-Long: " + b"j" * 300_000 + b"\r\n" + LENGTH, (200, 400, 431)),
    "bytes that are no letters": (GOOD + b"X-Junk: \xff\xfe\xfd\r\nCookie: \xc3\x28;;;=\r\n" + LENGTH, (200,)),
    "a NUL in a header": (GOOD + b"X-Junk: a\x00b\r\n" + LENGTH, (400,)),
    "a key of bytes": (GOOD + b"Idempotency-Key: \xff\xfe\r\n" + LENGTH, (400,)),
    "an empty key": (GOOD + b"Idempotency-Key:\r\n" + LENGTH, (400,)),
    "another secret first": (GOOD.replace(b"Bearer", b"Bearer nonsense\r\nAuthorization: Bearer") + LENGTH, (401,)),
    "a secret of bytes": (GOOD.replace(SECRET.encode(), b"\xff\xfe") + LENGTH, (401,)),
    "a type of junk": (GOOD + b"Content-Type: \xff/;;charset=\xfe\r\n" + LENGTH, (415,)),
    "compressed, it says": (GOOD + b"Content-Encoding: gzip\r\n" + LENGTH, (200, 415)),
    "a length that is none": (GOOD + b"Content-Length: -5\r\n", (400,)),
    "two lengths": (GOOD + LENGTH + b"Content-Length: 3\r\n", (400,)),
    "length and chunks": (GOOD + LENGTH + b"Transfer-Encoding: chunked\r\n", (400,)),
    "chunks of junk": (GOOD + b"Transfer-Encoding: chunked\r\n", (400,)),
    "no host": (GOOD.replace(b"Host: x\r\n", b"") + LENGTH, (400,)),
    "another way": (GOOD.replace(b"POST", b"BREW") + LENGTH, (405,)),
    "up and away": (GOOD.replace(b"/actions/", b"/../../etc/passwd/../") + LENGTH, (404,)),
    "an address of bytes": (GOOD.replace(b"resubscribe ", b"\xff\xfe ") + LENGTH, (400, 404)),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200 + b"\r\n", (400,)),
    "HTTP of the future": (GOOD.replace(b"HTTP/1.1", b"HTTP/7.0") + LENGTH, (200, 400, 505)),
}  # fmt: skip


def raw(service: Service, request: bytes) -> int:
    """Send bytes, and give the status of the answer."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        head = b""
        while b"\r\n" not in head and (piece := connection.recv(4096)):
            head += piece
    return int(head.split(b" ", 2)[1])


@pytest.mark.parametrize(("head", "statuses"), JUNK.values(), ids=list(JUNK))
def test_junk_is_answered_and_harms_nobody(
    service: Service, caplog: pytest.LogCaptureFixture, head: bytes, statuses: tuple[int, ...]
) -> None:
    assert raw(service, head + b"\r\n" + BODY + b"\r\n\r\n") in statuses
    assert raw(service, GOOD + LENGTH + b"\r\n" + BODY) == 200
    assert faults(caplog) == []


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def hung_up(service: Service) -> int:
    found = re.search(r'turned_away_total\{why="gone"\} (\d+)', service.get("metrics", **service.headers).text)
    return int(found[1]) if found else 0


def test_who_hangs_up_in_the_middle_leaves_nothing(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    before = hung_up(service)
    host, port = service.url.removeprefix("http://").split(":")
    for part in (b"", GOOD[:30], GOOD + LENGTH, GOOD + LENGTH + b"\r\n" + BODY[:9]):
        for reset in (False, True):
            connection = socket.create_connection((host, int(port)), timeout=20)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(part)
            connection.close()
    assert raw(service, GOOD + LENGTH + b"\r\n" + BODY) == 200
    until(lambda: hung_up(service) >= before + 2)  # those who had begun a body
    assert faults(caplog) == []


def test_ten_megabytes_are_not_read_to_the_end_of_a_webhook_either(service: Service) -> None:
    head = b"POST /webhooks/piano HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\ndata="
    assert raw(service, head + b"A" * 200_000) == 200
    assert service.get("healthz").text == "ok\n"


POISON: dict[str, list[object]] = {
    "fields": [{"type": None}, {"type": 7}, {"aid": None}, {"uid": None}, {"uid": ["u"]}, {"uid": "u" * 201}],
    "no_json": ["nonsense", "[1]", "3", "null", "{", '{"type": NaN'],
    "other_application": [{"aid": "TwoAppId02"}],
}
"""What is decrypted and yet of no use: members that are changed, or another text."""


def test_webhooks_of_no_use_are_taken_once_and_shown(bad: Piano, service: Service, settings: dict[str, Any]) -> None:
    good = {"version": 2, "type": "subscription_updated", "aid": bad.app.aid, "uid": "u1"}
    before = bad.server.control("GET", "counters")["requests"]
    for several in POISON.values():
        for one in several:
            text = one if isinstance(one, str) else json.dumps({**good, **one})  # type: ignore[dict-item]
            data = wrap(text, bad.app.private_key)
            for method in ("GET", "POST"):
                given = {"params": {"data": data}} if method == "GET" else {"data": {"data": data}}
                answer = requests.request(method, f"{service.url}/webhooks/piano", timeout=20, **given)  # type: ignore[arg-type]
                assert (answer.status_code, answer.text) == (200, "ok\n")
    for unknown in ({"type": "moon_landing"}, {"type": "test", "uid": None}):
        data = wrap(json.dumps({**good, **unknown}), bad.app.private_key)
        assert service.get(f"webhooks/piano?data={data}").status_code == 200
    store = Store(settings["store_url"])
    inbox = Inbox(store, tells=False)
    shown = [(one["reason"], one["times"]) for one in inbox.quarantined(limit=100) if one["kept"]]
    assert Counter(shown) == {(reason, 2): len(several) for reason, several in POISON.items()}
    assert {(one["type"], one["word"]) for one in inbox.events(limit=9)} == {
        ("moon_landing", "unknown_type"), ("test", "no_subscription"),
    }  # fmt: skip
    store.close()
    assert bad.server.control("GET", "counters")["requests"] == before, "nobody has to be read"


def test_a_body_that_never_ends_is_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SECONDS", 0.2)
    assert raw(service, GOOD + LENGTH + b"\r\n" + BODY[:9]) == 408
    form = b"POST /webhooks/piano HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\ndata"
    assert raw(service, form) == 408
