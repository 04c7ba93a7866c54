"""Callers who behave badly, over sockets: who hang up, say it in the query, have no end, or say it a thousand times."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
from piano_actions.service.gate import Gate
from piano_engage_sandbox.engage.ping import Pings
from piano_engage_sandbox.testing import serving
from pianosdk.utils import _encrypt

from tests.actions.conftest import Piano, settings_for
from tests.actions.test_resubscribe import RESUME
from tests.actions.test_service import SECRET, Service, served
from tests.actions.test_webhooks import HOOK

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def piano() -> Iterator[Piano]:
    """One sandbox for all; each test takes readers of its own."""
    with serving(rows=600) as server:
        yield Piano(server)


@pytest.fixture(scope="module")
def service(piano: Piano, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, sandbox = tmp_path_factory.mktemp("callers"), piano.server.sandbox
    target = folder / "target.json"
    target.write_text(json.dumps({"app_id": sandbox.app_id, "api_key": sandbox.api_key, "api_url": piano.server.url}))
    settings = settings_for(
        piano, folder, target_config=str(target), push=False, private_key=piano.app.private_key, actions_per_second=0
    )
    with served(settings, folder) as one:
        yield one


def connection(service: Service) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(*lines: str) -> bytes:
    every = ("POST /actions/resubscribe HTTP/1.1", "Host: x", f"Authorization: Bearer {SECRET}", *lines)
    return "\r\n".join([*every, "", ""]).encode()


def asked(piano: Piano) -> int:
    found: int = piano.server.control("GET", "counters")["requests"]
    return found


def test_who_hangs_up_while_piano_is_at_it_finds_it_done_once(piano: Piano, service: Service) -> None:
    entry = piano.stopping("Dynamic")
    body, before = json.dumps({"user_id": piano.uid(entry)}).encode(), piano.calls(RESUME)
    piano.fault(RESUME, latency=0.2, times=1)
    with connection(service) as caller:
        caller.sendall(head(f"Content-Length: {len(body)}") + body)
        end = time.monotonic() + 20
        while piano.calls(RESUME) == before:
            assert time.monotonic() < end
            time.sleep(0.01)
    status, told = service.ask("resubscribe", body)
    assert (status, told["status"], told["reason"]) == (200, "done", "resumed")
    assert piano.calls(RESUME) == before + 1


def test_half_a_request_is_none(piano: Piano, service: Service) -> None:
    entry, before = piano.stopping("Dynamic"), asked(piano)
    body = json.dumps({"user_id": piano.uid(entry)}).encode()
    with connection(service) as caller:
        caller.sendall(head(f"Content-Length: {len(body) + 5}") + body)
    assert service.get("readyz").ok
    assert (asked(piano), entry.state.auto_renew) == (before, False)


def test_the_query_says_nothing_about_what_is_to_be_done(piano: Piano, service: Service) -> None:
    entry = piano.stopping("Dynamic")
    told = service.ask(f"resubscribe?user_id={piano.uid(entry)}&subscription_id={entry.id}", {"user_id": "nobody"})[1]
    assert told["reason"] == "unknown_user"
    assert not entry.state.auto_renew


def test_a_body_that_does_not_say_how_long_it_is_is_not_read_to_the_end(service: Service) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with connection(service) as caller:
        caller.sendall(head("Transfer-Encoding: chunked") + chunk * 2)
        assert caller.recv(100).startswith(b"HTTP/1.1 413")
    assert service.get("healthz").text == "ok\n"


BODIES = ((b"{", "application/json"), (b"<a/>", "text/xml"), (b"x" * 20_000, "text/plain"))


def secret_comes_first(piano: Piano, service: Service, given: str) -> None:
    before = asked(piano)
    for action in ("resubscribe", "upgrade", "upgrade_cancel", "promo_code", "conversion"):
        for body, kind in BODIES:
            headers = {"Authorization": given, "Content-Type": kind, "Idempotency-Key": "a b"}
            answer = requests.post(f"{service.url}/actions/{action}", data=body, timeout=20, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert asked(piano) == before


@pytest.mark.parametrize("given", ["", "Bearer", f"Basic {SECRET}", f"Bearer {SECRET[:-1]}", f"bearer  {SECRET}!"])
def test_without_the_secret_nobody_learns_what_else_is_wrong(piano: Piano, service: Service, given: str) -> None:
    secret_comes_first(piano, service, given)


def test_a_gate_that_opens_to_most_of_a_secret_is_found_out(
    piano: Piano, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "lets_in", lambda _self, headers: SECRET[:-1] in headers.get("authorization", ""))
    with pytest.raises(AssertionError):
        secret_comes_first(piano, service, f"Bearer {SECRET[:-1]}")


def test_a_conversion_is_told_once_however_often_it_is_asked_for(piano: Piano, service: Service) -> None:
    pings = piano.server.sandbox.part(Pings)
    body = {"user_id": "a buyer", "tracker": next(iter(pings.trackers)), "offer": "spring"}
    piano.server.control("POST", "faults", {"part": "engage", "status": 503})
    answer = service.post("conversion", body)
    assert (answer.status_code, answer.json()["error"], answer.headers["Retry-After"]) == (503, "outage", "10")
    piano.server.control("DELETE", "faults")
    with ThreadPoolExecutor(10) as several:
        answers = list(several.map(lambda _: service.ask("conversion", body), range(20)))
    assert {(status, told["status"], told["reason"]) for status, told in answers} == {(200, "done", "conversion_told")}
    assert [one.user_id for one in pings.events].count("a buyer") == 1


def counted(service: Service) -> Counter[str]:
    """Count webhooks by what became of them."""
    text = service.get("metrics", **service.headers).text
    lines = [line for line in text.splitlines() if line.startswith("piano_actions_webhooks_total{")]
    return Counter({line.split('"')[1]: int(line.rsplit(" ", 1)[1]) for line in lines})


def test_a_webhook_a_thousand_times_is_one(piano: Piano, service: Service) -> None:
    payload: dict[str, Any] = {"type": "subscription_updated", "aid": piano.app.aid, "uid": "many", "timestamp": 1}
    data = quote(_encrypt(piano.app.private_key, json.dumps(payload)), safe="")
    request = f"GET /{HOOK}?data={data} HTTP/1.1\r\nHost: x\r\n"
    fifty = ((request + "\r\n") * 49 + request + "Connection: close\r\n\r\n").encode()

    def send(_number: int) -> int:
        found = b""
        with connection(service) as caller:
            caller.sendall(fifty)
            while more := caller.recv(65_536):
                found += more
        return found.count(b"HTTP/1.1 200")

    with ThreadPoolExecutor(20) as several:
        assert list(several.map(send, range(20))) == [50] * 20
    assert counted(service) == {"left": 1, "repeated": 999}
