"""The journal: what it keeps of requests, what it counts, and what it never keeps."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.journal import Journal
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server


class Client:
    """One connection to the sandbox that is kept open."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> int:
        self.connection.request(
            method, path, body if body is None or isinstance(body, str) else json.dumps(body), headers
        )
        response = self.connection.getresponse()
        response.read()
        return response.status

    def write(self, user: str, **traits: object) -> int:
        sandbox = self.server.sandbox
        basic = base64.b64encode(f"{sandbox.app_id}:{sandbox.api_key}".encode()).decode()
        body = {"id": sandbox.app_id, "user_id": user, "properties": traits}
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
        return self.call("POST", "/ingest/property", body, **headers)


@pytest.fixture
def client(sandbox: Server) -> Iterator[Client]:
    found = Client(sandbox)
    yield found
    found.connection.close()


def requests(server: Server, query: str = "") -> list[dict[str, Any]]:
    return list(server.control("GET", f"requests{query}"))


def counters(server: Server) -> dict[str, Any]:
    return dict(server.control("GET", "counters"))


def test_an_entry_says_what_was_asked_and_what_became_of_it(sandbox: Server, client: Client) -> None:
    assert client.write("u1", stage="trial") == 200
    (entry,) = requests(sandbox)
    assert entry["ms"] > 0
    assert entry["at"] == sandbox.sandbox.now()
    del entry["ms"], entry["at"]
    assert entry == {
        "number": 1, "part": "engage", "method": "POST", "path": "/ingest/property", "connection": entry["connection"],
        "query": {}, "form": {}, "user": "u1", "aid": None, "status": 200, "fault": "", "worked": True, "reached": True,
        "lost": False,
    }  # fmt: skip


def test_requests_over_one_connection_have_its_number(sandbox: Server, client: Client) -> None:
    for _ in range(3):
        client.write("u1", a=1)
    other = Client(sandbox)
    other.write("u1", a=1)
    other.connection.close()
    first, *_, last = numbers = [entry["connection"] for entry in requests(sandbox)]
    assert numbers == [first, first, first, last]
    assert first != last
    assert counters(sandbox)["connections"] == 2


def test_query_and_form_are_kept_with_repeated_names(sandbox: Server, client: Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    client.call("POST", "/api/v3/publisher/term/list?aid=A&x=1&x=2", "limit=5&uid=u7", **form)
    (entry,) = requests(sandbox)
    assert entry["query"] == {"aid": "A", "x": ["1", "2"]}
    assert entry["form"] == {"limit": "5", "uid": "u7"}
    assert (entry["aid"], entry["user"]) == ("A", "u7")


@pytest.mark.parametrize("name", ["api_token", "API_TOKEN", "api_key", "signature", "X-Amz-Signature", "private_key"])
def test_a_parameter_named_like_a_secret_is_masked(sandbox: Server, client: Client, name: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    client.call("POST", f"/api/v3/publisher/term/list?{name}=planted-1", f"{name}=planted-2", **form)
    (entry,) = requests(sandbox)
    assert entry["query"] == entry["form"] == {name: "***"}


def test_a_trait_named_like_a_key_is_not_a_secret(sandbox: Server, client: Client) -> None:
    client.call("POST", "/ingest/property?id=x&userId=u&properties[monkey]=1")
    assert requests(sandbox)[0]["query"]["properties[monkey]"] == "1"


def test_planted_secrets_are_nowhere(sandbox: Server, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """However they came: header, query, form, path, under any name, refused or not."""
    caplog.set_level(logging.DEBUG)
    app = next(iter(sandbox.sandbox.piano.values()))
    secrets = [app.token, app.private_key, sandbox.sandbox.api_key]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for secret in secrets:
        basic = base64.b64encode(f"a:{secret}".encode()).decode()
        client.call("GET", f"/api/v3/publisher/term/list?aid={app.aid}&api_token={secret}")
        client.call("GET", f"/api/v3/publisher/term/list?aid={app.aid}&whatever={secret}", api_token=secret)
        client.call("POST", f"/api/v3/publisher/term/list?aid={app.aid}", f"api_token={secret}&other={secret}", **form)
        client.call("POST", f"/ingest/property?k={secret}", {"user_id": "u", "id": "x"}, Authorization=f"Basic {basic}")
        client.call("GET", f"/nowhere/{secret}/x")
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10)
    texts = [caplog.text]
    for path in ("requests", "counters", "minutes", "faults", "limits", "engage", ""):
        connection.request("GET", f"/_sandbox/{path}")
        texts.append(connection.getresponse().read().decode())
    connection.close()
    assert len(requests(sandbox)) == 15
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []


def test_a_journal_that_masks_nothing_would_be_found(
    monkeypatch: pytest.MonkeyPatch, sandbox: Server, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Journal, "_clean", lambda _, text: text)
    with pytest.raises(AssertionError):
        test_planted_secrets_are_nowhere(sandbox, client, caplog)


def test_watching_disturbs_nothing(sandbox: Server, client: Client) -> None:
    client.write("u1", a=1)
    before = counters(sandbox)
    for path in ("/", "/_sandbox/requests", "/_sandbox/clock", "/_sandbox/nonsense?x=1"):
        client.call("GET", path)
    assert len(requests(sandbox)) == 1 + 1  # what no route takes is no watching
    assert counters(sandbox)["requests"] == before["requests"] + 1
    assert {entry["path"] for entry in requests(sandbox, "?part=control")} >= {"/_sandbox/clock"}
    assert [entry["path"] for entry in requests(sandbox, "?part=page")] == ["/"]


def test_requests_can_be_filtered_and_read_on(sandbox: Server, client: Client) -> None:
    sandbox.control("POST", "faults", {"part": "engage", "user": "u2", "status": 503})
    for user in ("u1", "u2", "u3"):
        client.write(user, a=1)
    assert [entry["user"] for entry in requests(sandbox, "?since=1")] == ["u2", "u3"]
    assert [entry["user"] for entry in requests(sandbox, "?status=503")] == ["u2"]
    assert [entry["user"] for entry in requests(sandbox, "?worked=true&limit=1")] == ["u3"]
    assert requests(sandbox, "?lost=true") == []
    with pytest.raises(ValueError, match="unknown parameter 'users'"):
        requests(sandbox, "?users=u1")
    with pytest.raises(ValueError, match="since takes a number, not 'x'"):
        requests(sandbox, "?since=x")


def test_forgotten_requests_are_gone_and_numbers_go_on(sandbox: Server, client: Client) -> None:
    client.write("u1", a=1)
    sandbox.control("DELETE", "requests")
    assert requests(sandbox) == []
    assert counters(sandbox)["requests"] == 0
    client.write("u1", a=1)
    assert requests(sandbox)[0]["number"] == 2


def test_answers_are_counted_by_route_and_status(sandbox: Server, client: Client) -> None:
    sandbox.control("POST", "faults", {"part": "engage", "status": 503, "times": 2})
    for number in range(5):
        client.write(f"u{number}", a=1)
    client.call("GET", "/nowhere/1")
    client.call("GET", "/nowhere/2")
    found = {(item["path"], item["status"]): item["count"] for item in counters(sandbox)["answers"]}
    assert found == {("/ingest/property", 503): 2, ("/ingest/property", 200): 3, ("", 404): 2}
    assert counters(sandbox)["faults"] == {"status 503": 2}


def test_minutes_count_requests_and_errors_by_part(sandbox: Server, client: Client) -> None:
    sandbox.control("POST", "faults", {"part": "engage", "status": 503, "times": 2})
    for number in range(5):
        client.write(f"u{number}", a=1)
    minutes = sandbox.control("GET", "minutes?last=3")
    assert len(minutes) == 3
    parts = [minute["parts"].get("engage", {"requests": 0, "errors": 0}) for minute in minutes]
    assert (sum(part["requests"] for part in parts), sum(part["errors"] for part in parts)) == (5, 2)


def together(server: Server, users: list[str]) -> None:
    """Have one request for each user in the air at once."""
    server.control("POST", "faults", {"part": "engage", "latency": 0.2})
    barrier = threading.Barrier(len(users))

    def one(user: str) -> int:
        client = Client(server)
        barrier.wait()
        status = client.write(user, a=1)
        client.connection.close()
        return status

    with ThreadPoolExecutor(len(users)) as pool:
        assert set(pool.map(one, users)) == {200}


def test_two_requests_about_one_user_at_once_are_an_overlap(sandbox: Server) -> None:
    together(sandbox, ["u1", "u1", "u2"])
    found = counters(sandbox)
    assert (found["overlaps"], found["most_in_flight"], found["in_flight"]) == (1, 3, 0)


def test_requests_about_other_users_or_one_after_another_are_none(sandbox: Server, client: Client) -> None:
    together(sandbox, ["u1", "u2", "u3"])
    sandbox.control("DELETE", "faults")
    for _ in range(5):
        client.write("u1", a=1)
    assert counters(sandbox)["overlaps"] == 0


def test_a_journal_that_sees_no_overlap_would_be_found(monkeypatch: pytest.MonkeyPatch, sandbox: Server) -> None:
    monkeypatch.setattr(Journal, "in_the_air", lambda _self, _entry: None)
    with pytest.raises(AssertionError):
        test_two_requests_about_one_user_at_once_are_an_overlap(sandbox)


def test_the_greatest_rate_is_that_of_any_second(sandbox: Server) -> None:
    journal = sandbox.sandbox.part(Journal)
    for moment in (0.0, 0.5, 0.9, 1.2, 1.4, 1.45, 5.0):
        journal._count_second(moment)
    assert journal.most_in_a_second == 5


def test_only_the_newest_requests_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piano_engage_sandbox.journal.KEPT", 20)
    with serving() as server:
        client = Client(server)
        for number in range(30):
            client.write(f"u{number}", a=1)
        client.connection.close()
        assert [entry["number"] for entry in requests(server)] == list(range(11, 31))
        assert counters(server)["requests"] == 30


def test_a_client_that_went_away_did_not_get_its_answer(sandbox: Server) -> None:
    sandbox.control("POST", "faults", {"part": "engage", "latency": 0.6})
    client = Client(sandbox)
    client.connection.timeout = 0.3
    with pytest.raises(TimeoutError):
        client.write("u1", a=1)
    client.connection.close()
    deadline = time.monotonic() + 10
    while not requests(sandbox) or counters(sandbox)["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    (entry,) = requests(sandbox)
    assert (entry["worked"], entry["reached"], entry["lost"]) == (True, False, True)
