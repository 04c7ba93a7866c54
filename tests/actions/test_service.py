"""The service over sockets: who is let in, what is answered, how often Piano is asked, and how it stops."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import psutil
import pytest
import requests
from piano_actions import desk as desk_module
from piano_actions.cli.asking import Context
from piano_actions.cli.serving import server_of
from piano_actions.service.counter import Counter
from piano_actions.service.gate import Gate, Limits
from piano_actions.store import Store
from piano_engage_common.stops import ConfigRefused

from tests.actions.conftest import Piano, settings_for
from tests.actions.nights import Nights
from tests.actions.test_resubscribe import RESUME, writes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import uvicorn

SECRET = "a-secret-for-tests-only"  # noqa: S105 - of no use elsewhere
SIGNED = "another-secret-for-tests"
Answer = tuple[int, dict[str, Any]]


@dataclass
class Service:
    """The service behind a socket."""

    server: uvicorn.Server
    url: str
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {SECRET}"})

    def post(self, action: str, body: object, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"data": body} if isinstance(body, bytes) else {"json": body}
        answer = requests.post(f"{self.url}/actions/{action}", headers=self.headers | named, timeout=60, **kind)
        self.check(f"/actions/{action.partition('?')[0]}", "post", answer)
        return answer

    def ask(self, action: str, body: object, **headers: str) -> Answer:
        answer = self.post(action, body, **headers)
        return answer.status_code, answer.json()

    def get(self, path: str, **headers: str) -> requests.Response:
        answer = requests.get(f"{self.url}/{path}", headers=headers, timeout=20)
        self.check(f"/{path.partition('?')[0]}", "get", answer)
        return answer

    def check(self, path: str, method: str, answer: requests.Response) -> None:
        """See that an answer is as the service describes it."""
        ways = self.described["paths"].get(path)
        if ways is None:  # a page that is not there, or is not described
            return
        (kind, content), *_ = ways[method]["responses"][str(answer.status_code)]["content"].items()
        assert answer.headers["Content-Type"].partition(";")[0] == kind
        if kind == "application/json":
            jsonschema.validate(answer.json(), {**content["schema"], "components": self.described["components"]})

    @cached_property
    def described(self) -> dict[str, Any]:
        """The description of the service."""
        return requests.get(f"{self.url}/openapi.json", timeout=20).json()


@contextmanager
def served(settings: dict[str, Any], folder: Path) -> Iterator[Service]:
    path = folder / "service.json"
    path.write_text(json.dumps({"secrets": SECRET, "port": 0, "reader_actions_per_minute": 0, **settings}))
    server = server_of(Context(path))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Service(server, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def service(settings: dict[str, Any], tmp_path: Path) -> Iterator[Service]:
    with served(settings, tmp_path) as one:
        yield one


def test_json_and_form_are_done_alike(piano: Piano, service: Service) -> None:
    for kind, send in (("Dynamic", "json"), ("Payment", "form")):
        entry = piano.stopping(kind)
        given = {"user_id": piano.uid(entry), "prompt": "win back", "junk": "ü"}
        body: object = given if send == "json" else requests.models.RequestEncodingMixin._encode_params(given).encode()
        headers = {} if send == "json" else {"Content_Type": "application/x-www-form-urlencoded; charset=utf-8"}
        status, told = service.ask("resubscribe?utm=1&utm=2", body, **headers)
        assert (status, told["status"], told["details"]["subscription_id"]) == (200, "done", entry.id)
        assert told["message"].startswith("Welcome back!")
        assert entry.state.auto_renew


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": value}
        for value in ("", "Bearer", "Bearer nonsense", f"Basic {SECRET}", SECRET, f"Bearer {SECRET}x")
    ],
)
def test_without_the_secret_nobody_is_let_in(piano: Piano, service: Service, headers: dict[str, str]) -> None:
    service.headers = {}
    uid = piano.uid(piano.stopping("Dynamic"))
    for action in ("resubscribe", "upgrade", "upgrade_cancel", "promo_code", "conversion"):
        answer = service.post(action, {"user_id": uid}, **headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert service.get("metrics", **headers).status_code == 401
    assert piano.server.control("GET", "counters")["requests"] == 0


def test_a_gate_that_stands_open_is_found_out(piano: Piano, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "lets_in", lambda *_: True)
    with pytest.raises((AssertionError, KeyError)):
        test_without_the_secret_nobody_is_let_in(piano, service, {"Authorization": "Bearer nonsense"})


def test_a_signature_must_fit_the_body_and_be_fresh(piano: Piano, settings: dict[str, Any], tmp_path: Path) -> None:
    body = json.dumps({"user_id": piano.uid(piano.stopping("Dynamic"))}).encode()

    def headers(moment: float, of: bytes = body, key: str = SIGNED) -> dict[str, str]:
        stamp = str(int(moment))
        made = hmac.new(key.encode(), f"{stamp}.".encode() + of, hashlib.sha256).hexdigest()
        return {"X_Timestamp": stamp, "X_Signature": made}

    now = time.time()
    with served({**settings, "hmac_secret": SIGNED}, tmp_path) as service:
        bad = [{}, headers(now - 400), headers(now + 400), headers(now, b"{}"), headers(now, key="other"),
               {"X_Timestamp": "²", "X_Signature": "ab"}]  # fmt: skip
        assert [service.post("resubscribe", body, **one).status_code for one in bad[:-1]] == [401] * 5
        assert writes(piano) == 0
        assert service.post("resubscribe", body, **headers(now)).json()["status"] == "done"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 422), (b"{", {}, 422), (b"[]", {}, 422), (b'{"user_id": {"a": 1}}', {}, 422), (b"\xff\xfe", {}, 422),
        (b'{"user_id": ""}', {}, 422), (b'{"user_id": "a\\u0000b"}', {}, 422), (b'{"user_id": "u"}' * 2, {}, 422),
        (json.dumps({"user_id": "u" * 201}).encode(), {}, 422), (b"[" * 9000, {}, 422),
        (b"x" * 20_000, {}, 413), (b"<user/>", {"Content_Type": "text/xml"}, 415),
        (b'{"user_id": "u"}', {"Idempotency_Key": "a b"}, 400),
        (b'{"user_id": "u"}', {"Idempotency_Key": "x" * 129}, 400),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_turned_away(
    service: Service, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = service.post("resubscribe", body, **headers)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "message"})


def test_ten_megabytes_are_not_read_to_the_end(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        lines = ("POST /actions/resubscribe HTTP/1.1", "Host: x", f"Authorization: Bearer {SECRET}")
        head = "\r\n".join([*lines, "Content-Length: 10485760", "", ""])
        connection.sendall(head.encode() + b"x" * 65_536)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert service.get("healthz").text == "ok\n"


def test_fifty_clicks_at_once_are_one_and_all_get_its_answer(piano: Piano, service: Service) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, latency=0.3)
    body = {"user_id": piano.uid(entry), "offer": "win back"}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: service.ask("resubscribe", body), range(50)))
    assert [status for status, _ in answers] == [200] * 50
    assert {json.dumps(told, sort_keys=True) for _, told in answers} == {json.dumps(answers[0][1], sort_keys=True)}
    assert answers[0][1]["status"] == "done"
    assert (piano.calls(RESUME), writes(piano)) == (1, 1)
    assert service.ask("resubscribe", body) == answers[0], "the same answer a moment later"
    assert writes(piano) == 1


def test_who_cancels_and_clicks_again_is_brought_back_again(
    piano: Piano, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "FRESH_SECONDS", 0.0)
    entry = piano.stopping("Dynamic")
    body, key = {"user_id": piano.uid(entry), "offer": "win back"}, {"Idempotency_Key": "of-the-caller"}
    first, of_caller = service.ask("resubscribe", body), service.ask("resubscribe", body, **key)
    assert (first[1]["status"], of_caller[1]["status"]) == ("done", "already")
    assert service.ask("resubscribe", body) == first, "nothing happened since"
    piano.stop(entry)
    assert service.ask("resubscribe", body, **key) == of_caller, "the same key, the same answer"
    with ThreadPoolExecutor(10) as pool:
        again = list(pool.map(lambda _: service.ask("resubscribe", body), range(10)))
    assert {told["status"] for _, told in again} == {"done"}
    assert (writes(piano), entry.state.auto_renew) == (2, True)


def test_an_answer_that_is_kept_whatever_happens_is_found_out(
    piano: Piano, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(desk_module.Desk, "_starts_over", lambda *_: False)
        with pytest.raises(AssertionError):
            test_who_cancels_and_clicks_again_is_brought_back_again(piano, service, patch)


def test_what_was_refused_is_looked_at_again_and_a_conversion_is_told_once(
    piano: Piano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "FRESH_SECONDS", 0.0)
    entry = piano.find(lambda one: one.state.auto_renew and one.fate.term.type == "Dynamic" and piano.alone(one))
    uid, nights = piano.uid(entry), Nights(piano, tmp_path)
    with served(settings_for(piano, tmp_path, target_config=str(nights.config), tracker="T1"), tmp_path) as service:
        assert service.ask("resubscribe", {"user_id": uid})[1]["status"] == "already"
        piano.stop(entry)
        assert service.ask("resubscribe", {"user_id": uid})[1]["status"] == "done"
        for _ in range(2):
            assert service.ask("conversion", {"user_id": uid})[1]["status"] == "done"
    pings = [one for one in piano.server.control("GET", "requests") if one["path"] == "/ping"]
    assert len(pings) == 1


def test_a_counter_that_keeps_nothing_together_is_found_out(
    piano: Piano, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, numbers = Counter.run, iter(range(1000))

    async def apart(self: Counter, request: Any) -> Any:  # noqa: ANN401 - of ours
        object.__setattr__(request, "key", f"{next(numbers)}")
        return await real(self, request)

    monkeypatch.setattr(Counter, "run", apart)
    with pytest.raises(AssertionError):
        test_fifty_clicks_at_once_are_one_and_all_get_its_answer(piano, service)


def test_a_key_stands_for_one_request(piano: Piano, service: Service) -> None:
    uid = piano.uid(piano.stopping("Dynamic"))
    first = service.ask("resubscribe", {"user_id": uid}, Idempotency_Key="k1")
    assert first == service.ask("resubscribe", {"user_id": uid}, Idempotency_Key="k1")
    status, told = service.ask("upgrade", {"user_id": uid, "to_term": "x"}, Idempotency_Key="k1")
    assert (status, told["error"]) == (409, "key_taken")
    assert service.ask("resubscribe", {"user_id": uid}, Idempotency_Key="k2")[1]["status"] == "already"


def test_of_one_reader_one_action_at_a_time(piano: Piano, service: Service) -> None:
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, latency=0.3)
    body = {"user_id": piano.uid(entry)}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: service.ask("resubscribe", body, Idempotency_Key=f"k{n}"), range(6)))
    assert sorted(told["status"] for _, told in answers) == ["already"] * 5 + ["done"]
    assert writes(piano) == 1


def test_too_many_are_asked_to_come_again(piano: Piano, settings: dict[str, Any], tmp_path: Path) -> None:
    uid = piano.uid(piano.stopping("Dynamic"))
    with served({**settings, "reader_actions_per_minute": 2}, tmp_path) as service:
        answers = [service.post("resubscribe", {"user_id": uid}, Idempotency_Key=f"k{n}") for n in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 31
        assert service.post("resubscribe", {"user_id": "other"}).status_code == 200


def test_limits_fill_again_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("piano_actions.service.gate.time.monotonic", lambda: now)
    limits = Limits(per_reader=2, in_all=3)
    assert [limits.wait("a") for _ in range(3)] == [0, 0, 30]
    now += 30
    assert [limits.wait("a"), limits.wait("b"), limits.wait("c")] == [0, 0, 0]
    assert limits.wait("d") == pytest.approx(1 / 3)


def test_who_clicks_too_often_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piano_actions.service.gate.time.monotonic", lambda: 1000.0)
    limits = Limits(per_reader=1, in_all=3)
    assert [limits.wait("a") > 0 for _ in range(50)] == [False, *[True] * 49]
    assert [limits.wait("b"), limits.wait("c")] == [0, 0]
    assert limits.wait("d") > 0
    assert "d" not in limits._readers, "nor does who comes too late for the others lose his own"


def test_who_waits_for_his_own_action_takes_no_place_from_others(
    piano: Piano, settings: dict[str, Any], tmp_path: Path
) -> None:
    slow, other = piano.stopping("Dynamic"), piano.stopping("Payment")
    piano.fault(RESUME, latency=2.0, times=1)
    with (
        served({**settings, "workers": 2, "request_timeout": 9}, tmp_path) as service,
        ThreadPoolExecutor(3) as pool,
    ):
        first = pool.submit(service.ask, "resubscribe", {"user_id": piano.uid(slow)})
        while not piano.calls(RESUME):
            time.sleep(0.01)
        waiting = [pool.submit(service.ask, "resubscribe", {"user_id": piano.uid(slow), "offer": n}) for n in (1, 2)]
        time.sleep(0.2)
        assert service.ask("resubscribe", {"user_id": piano.uid(other)})[1]["status"] == "done"
        assert not first.done()
        assert first.result()[1]["status"] == "done"
        assert [one.result()[1]["status"] for one in waiting] == ["already", "already"]
    assert writes(piano) == 2


def test_without_piano_it_says_so_and_the_key_stays_free(piano: Piano, service: Service) -> None:
    uid = piano.uid(piano.stopping("Dynamic"))
    piano.fault("subscription/list", status=500)
    answer = service.post("resubscribe", {"user_id": uid}, Idempotency_Key="k")
    assert (answer.status_code, answer.json()["error"]) == (503, "outage")
    assert answer.headers["Retry-After"]
    piano.server.control("DELETE", "faults")
    assert service.ask("resubscribe", {"user_id": uid}, Idempotency_Key="k")[1]["status"] == "done"


def test_a_token_that_piano_refuses_is_our_fault_and_told_to_nobody_but_the_log(
    piano: Piano, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uid = piano.uid(piano.stopping("Dynamic"))
    with served({**settings, "api_token": "no-such-token"}, tmp_path) as service:
        answer = service.post("resubscribe", {"user_id": uid})
    assert answer.status_code == 502
    assert "no-such-token" not in answer.text + caplog.text
    assert "token" not in answer.text
    assert "resubscribe could not be done: " in caplog.text
    assert "token" in caplog.text
    assert uid not in caplog.text


def test_who_watches_over_it_is_told_without_names(piano: Piano, service: Service) -> None:
    uid = piano.uid(piano.stopping("Dynamic"))
    service.post("resubscribe", {"user_id": uid})
    service.post("resubscribe", b"{")
    assert (service.get("healthz").text, service.get("readyz").text) == ("ok\n", "ready\n")
    text = service.get("metrics", **service.headers).text
    assert 'piano_actions_outcomes_total{action="resubscribe",status="done"} 1' in text
    assert 'piano_actions_turned_away_total{why="body"} 1' in text
    assert uid not in text


def test_the_description_names_every_action_and_its_secret(service: Service) -> None:
    described = service.get("openapi.json").json()
    posts = {path: one["post"] for path, one in described["paths"].items() if "post" in one}
    assert set(posts) == {
        f"/actions/{action}" for action in ("resubscribe", "upgrade", "upgrade_cancel", "promo_code", "conversion")
    }
    for one in posts.values():
        assert one["security"] == [{"secret": []}]
        assert set(one["requestBody"]["content"]) == {"application/json", "application/x-www-form-urlencoded"}
    assert described["components"]["schemas"]["Upgrade"]["required"] == ["user_id", "to_term"]


def test_the_traits_follow_the_click_and_what_could_not_be_told_follows_later(piano: Piano, tmp_path: Path) -> None:
    entries = [piano.stopping("Dynamic"), piano.stopping("Payment")]
    nights = Nights(piano, tmp_path)
    nights.run()
    with served(settings_for(piano, tmp_path, target_config=str(nights.config)), tmp_path) as service:
        for entry, down in zip(entries, (False, True), strict=True):
            if down:
                piano.server.control("POST", "faults", {"part": "engage", "status": 503, "times": 4})
            uid = piano.uid(entry)
            assert nights.holds(uid)["auto_renew"] == "false"
            assert service.ask("resubscribe", {"user_id": uid})[1]["status"] == "done"
            until = time.monotonic() + 60
            while nights.holds(uid)["auto_renew"] != "true":
                assert time.monotonic() < until
                time.sleep(0.02)


def test_it_stops_when_what_is_under_way_has_come_to_an_end(
    piano: Piano, settings: dict[str, Any], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path, target = tmp_path / "process.json", tmp_path / "tells.json"
    sandbox = piano.server.sandbox
    target.write_text(json.dumps({
        "app_id": sandbox.app_id, "api_key": sandbox.api_key, "api_url": piano.server.url,
        "ledger": str(tmp_path / "ledger.duckdb"),
    }))  # fmt: skip
    more = {"secrets": SECRET, "port": port, "request_timeout": 20, "target_config": str(target)}
    path.write_text(json.dumps({**settings, **more}))
    entry = piano.stopping("Dynamic")
    piano.fault(RESUME, latency=1.0, when="after")
    command = [Path(sys.executable).with_name("piano-actions"), "--config", path, "serve"]
    log = tmp_path / "log"
    with (
        log.open("wb") as err,
        subprocess.Popen(command, stderr=err) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        service = Service(None, f"http://127.0.0.1:{port}")  # type: ignore[arg-type]
        while True:
            try:
                assert service.get("readyz").ok
                break
            except requests.ConnectionError:
                assert process.poll() is None
                time.sleep(0.05)
        answer = pool.submit(service.ask, "resubscribe", {"user_id": piano.uid(entry)})
        while not entry.state.auto_renew:
            time.sleep(0.01)
        started = psutil.Process(process.pid).children(recursive=True)
        assert any("spawn_main" in " ".join(one.cmdline()) for one in started), "it works traits out in another process"
        process.send_signal(signal.SIGTERM)
        assert answer.result()[1]["status"] == "done"
        assert process.wait(30) in {0, -signal.SIGTERM}
    assert psutil.wait_procs(started, timeout=20)[1] == []
    assert log.read_text().splitlines() == [f"serving on http://127.0.0.1:{port}"]


def test_an_outage_does_not_keep_it_from_stopping(piano: Piano, tmp_path: Path) -> None:
    nights = Nights(piano, tmp_path)
    settings = settings_for(piano, tmp_path, target_config=str(nights.config), request_timeout=1, retry_attempts=2)
    store = Store(settings["store_url"])
    readers = list(dict.fromkeys(map(piano.uid, piano.world.entries.values())))[:100]
    for uid in readers:
        store.want_push(uid)
    piano.fault("subscription/list", latency=30)
    with served(settings, tmp_path):
        while not any(row["attempts"] for row in store.pushes()):
            time.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 8
    waiting = store.pushes()
    assert len(waiting) == 100, "none is forgotten"
    assert sum(row["attempts"] for row in waiting) < 60
    assert len(store.due(limit=999, every=True)) == 100, "nor held"
    store.close()


@pytest.mark.parametrize("secrets", [None, "", "short", "long-enough-secret-1,short"])
def test_it_does_not_start_without_a_secret(settings: dict[str, Any], tmp_path: Path, secrets: str | None) -> None:
    path = tmp_path / "service.json"
    path.write_text(json.dumps({**settings, "secrets": secrets}))
    with pytest.raises(ConfigRefused, match="secrets"):
        server_of(Context(path))


def test_it_does_not_start_with_a_short_key_for_signatures(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "service.json"
    path.write_text(json.dumps({**settings, "secrets": SECRET, "hmac_secret": "short"}))
    with pytest.raises(ConfigRefused, match="hmac_secret"):
        server_of(Context(path))
