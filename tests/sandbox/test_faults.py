"""Faults as a client meets them over a socket, and whether the work was done."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.faults import Faults
from piano_engage_sandbox.journal import Journal
from piano_engage_sandbox.rules import RuleError
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from piano_engage_sandbox.journal import Entry
    from piano_engage_sandbox.server import Server


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.body)


def call(
    server: Server, method: str, path: str, body: bytes | None = None, timeout: float = 10, **headers: str
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def write(server: Server, user: str, timeout: float = 10, **traits: object) -> Answer:
    """Write traits of a user to Engage."""
    sandbox = server.sandbox
    basic = base64.b64encode(f"{sandbox.app_id}:{sandbox.api_key}".encode()).decode()
    body = json.dumps({"id": sandbox.app_id, "user_id": user, "properties": traits}).encode()
    given = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
    return call(server, "POST", "/ingest/property", body, timeout, **given)


def terms(server: Server) -> Answer:
    app = next(iter(server.sandbox.piano.values()))
    return call(server, "GET", f"/api/v3/publisher/term/list?aid={app.aid}", None, api_token=app.token)


def known(server: Server, user: str) -> bool:
    return server.control("GET", f"engage/user/{user}") is not None


def journal(server: Server) -> list[dict[str, Any]]:
    """The requests, once the server has ended them all."""
    deadline = time.monotonic() + 10
    while server.control("GET", "counters")["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return list(server.control("GET", "requests"))


def fault(server: Server, **members: object) -> None:
    server.control("POST", "faults", members)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_status_is_answered_and_nothing_is_done(sandbox: Server, status: int) -> None:
    fault(sandbox, part="engage", status=status, times=1)
    assert write(sandbox, "u1", stage="trial").status == status
    assert not known(sandbox, "u1")
    assert write(sandbox, "u1", stage="trial").status == 200
    assert known(sandbox, "u1")


def test_a_status_comes_with_and_without_retry_after(sandbox: Server) -> None:
    fault(sandbox, part="engage", status=429, times=1)
    fault(sandbox, part="engage", status=429, retry_after="7", skip=1, times=1)
    assert write(sandbox, "u1", a=1).headers["Retry-After"] is None
    assert write(sandbox, "u1", a=1).headers["Retry-After"] == "7"


def test_a_status_comes_with_a_body_and_headers(sandbox: Server) -> None:
    fault(
        sandbox,
        part="engage",
        status=502,
        body="<h1>Bad Gateway</h1>",
        headers={"Content-Type": "text/html", "X-A": "b"},
    )
    answer = write(sandbox, "u1", a=1)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (502, b"<h1>Bad Gateway</h1>", "text/html")
    assert answer.headers["X-A"] == "b"


def test_a_status_after_the_work_hides_that_it_was_done(sandbox: Server) -> None:
    fault(sandbox, part="engage", status=503, when="after", times=1)
    assert write(sandbox, "u1", a=1).status == 503
    assert known(sandbox, "u1")


def test_a_reset_before_the_work_does_nothing(sandbox: Server) -> None:
    fault(sandbox, part="engage", reset=True, times=1)
    with pytest.raises(ConnectionResetError):
        write(sandbox, "u1", a=1)
    assert not known(sandbox, "u1")
    (entry,) = journal(sandbox)
    assert (entry["worked"], entry["reached"], entry["lost"], entry["status"]) == (False, False, False, None)


def test_a_reset_after_the_work_loses_the_acknowledgement(sandbox: Server) -> None:
    fault(sandbox, part="engage", reset=True, when="after", times=1)
    with pytest.raises(ConnectionResetError):
        write(sandbox, "u1", a=1)
    assert known(sandbox, "u1")
    (entry,) = journal(sandbox)
    assert (entry["worked"], entry["reached"], entry["lost"], entry["fault"]) == (True, False, True, "reset after")
    assert sandbox.control("GET", "counters")["lost_answers"] == 1


def test_a_journal_that_misses_lost_acknowledgements_would_be_found(
    monkeypatch: pytest.MonkeyPatch, sandbox: Server
) -> None:
    """The broken double of the test above: it believes that what was answered has arrived."""
    end = Journal.end

    def believing(self: Journal, entry: Entry, seconds: float, *, user: str | None, route: str) -> None:
        entry.reached = True
        end(self, entry, seconds, user=user, route=route)

    monkeypatch.setattr(Journal, "end", believing)
    with pytest.raises(AssertionError):
        test_a_reset_after_the_work_loses_the_acknowledgement(sandbox)


def test_a_hanging_request_is_never_answered(sandbox: Server) -> None:
    fault(sandbox, part="engage", hang=True, times=1)
    with pytest.raises(TimeoutError):
        write(sandbox, "u1", timeout=1, a=1)
    assert not known(sandbox, "u1")
    assert journal(sandbox)[0]["status"] is None


def test_a_sandbox_stops_at_once_though_a_request_hangs() -> None:
    with serving() as server:
        fault(server, part="engage", hang=True)
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(b"GET /ingest/property?userId=u1 HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        while not server.control("GET", "counters")["in_flight"]:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_latency_delays_the_answer_of_those_it_is_about(sandbox: Server) -> None:
    fault(sandbox, part="engage", user="slow", latency=0.1)
    assert write(sandbox, "slow", a=1).status == write(sandbox, "quick", a=1).status == 200
    slow, quick = journal(sandbox)
    assert slow["ms"] >= 100
    assert (slow["fault"], quick["fault"]) == ("latency", "")


def test_latencies_add_up_and_go_with_another_fault(sandbox: Server) -> None:
    fault(sandbox, part="engage", latency=0.03)
    fault(sandbox, part="engage", latency=0.03, when="after")
    fault(sandbox, part="engage", status=500)
    assert write(sandbox, "u1", a=1).status == 500
    (entry,) = journal(sandbox)
    assert entry["ms"] >= 60
    assert entry["fault"] == "latency, latency after, status 500"


def test_a_truncated_body_is_shorter_than_it_says(sandbox: Server) -> None:
    whole = terms(sandbox)
    fault(sandbox, part="publisher", truncate=100, times=1)
    with pytest.raises(http.client.IncompleteRead) as caught:
        terms(sandbox)
    assert caught.value.partial == whole.body[:100]
    assert caught.value.expected == len(whole.body) - 100
    assert journal(sandbox)[-1]["lost"]
    assert terms(sandbox).body == whole.body


def test_nothing_of_a_body_comes_when_it_is_cut_at_0(sandbox: Server) -> None:
    fault(sandbox, part="publisher", truncate=0)
    with pytest.raises(http.client.IncompleteRead) as caught:
        terms(sandbox)
    assert caught.value.partial == b""


def test_a_body_that_is_shorter_than_the_cut_comes_whole(sandbox: Server) -> None:
    whole = terms(sandbox)
    fault(sandbox, part="publisher", truncate=len(whole.body))
    assert terms(sandbox).body == whole.body


def test_a_slow_body_comes_whole(sandbox: Server) -> None:
    whole = terms(sandbox)
    fault(sandbox, part="publisher", bytes_per_second=len(whole.body) * 10)
    assert terms(sandbox).body == whole.body
    assert journal(sandbox)[-1]["ms"] >= 90


def test_html_comes_with_200(sandbox: Server) -> None:
    fault(sandbox, part="engage", html=True)
    answer = write(sandbox, "u1", a=1)
    assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")
    assert not known(sandbox, "u1")


def test_success_false_is_said_in_the_words_of_each_vendor(sandbox: Server) -> None:
    fault(sandbox, success_false=True, code=8005)
    assert write(sandbox, "u1", a=1).json == {"success": False}
    piano = terms(sandbox)
    assert (piano.status, piano.json["code"]) == (200, 8005)
    assert list(piano.json) == ["code", "ts", "message"]


def test_a_token_is_refused_from_now_on(sandbox: Server) -> None:
    assert write(sandbox, "u1", a=1).status == 200
    fault(sandbox, token_refused=True)
    for _ in range(3):
        refused = write(sandbox, "u1", a=2)
        assert (refused.status, refused.json) == (401, {"success": False, "message": "not_authorized"})
        assert terms(sandbox).json["code"] == 2
    sandbox.control("DELETE", "faults")
    assert write(sandbox, "u1", a=2).status == 200


def test_a_refused_token_looks_as_a_wrong_one_does(sandbox: Server) -> None:
    app = next(iter(sandbox.sandbox.piano.values()))
    wrong = call(sandbox, "GET", f"/api/v3/publisher/term/list?aid={app.aid}&api_token=wrong")
    fault(sandbox, token_refused=True)
    refused = terms(sandbox)
    assert (refused.status, refused.json) == (wrong.status, wrong.json)


def test_one_user_is_poisoned_and_no_other(sandbox: Server) -> None:
    fault(sandbox, part="engage", user="poison", status=422)
    assert [write(sandbox, user, a=1).status for user in ("poison", "u1", "poison", "u2")] == [422, 200, 422, 200]


def test_a_fault_takes_the_requests_it_says(sandbox: Server) -> None:
    fault(sandbox, part="engage", status=503, skip=2, every=3, times=2)
    statuses = [write(sandbox, "u1", a=n).status for n in range(11)]
    assert [n for n, status in enumerate(statuses) if status == 503] == [2, 5]
    (rule,) = sandbox.control("GET", "faults")
    assert (rule["seen"], rule["struck"]) == (11, 2)


def test_chance_is_the_same_for_the_same_seed() -> None:
    def struck(seed: int) -> list[int]:
        with serving() as server:
            fault(server, part="engage", status=500, probability=0.3, seed=seed)
            return [write(server, "u1", a=n).status for n in range(40)]

    assert struck(1) == struck(1)
    assert struck(1) != struck(2)
    assert set(struck(1)) == {200, 500}


@pytest.mark.parametrize(
    "members",
    [{"path": "/ingest/*"}, {"method": "POST"}, {"part": "engage"}, {"part": "engage", "path": "*property"}],
)
def test_a_fault_is_about_what_fits_all_its_members(sandbox: Server, members: dict[str, object]) -> None:
    fault(sandbox, status=500, **members)
    assert write(sandbox, "u1", a=1).status == 500
    assert terms(sandbox).status == 200


def test_a_fault_can_be_about_one_application(sandbox: Server) -> None:
    fault(sandbox, aid="Other", status=500)
    assert terms(sandbox).status == 200
    fault(sandbox, aid="ExAmPlE4a1", status=500)
    assert terms(sandbox).status == 500


def test_a_fault_for_all_leaves_the_control_endpoint_and_the_page_alone(sandbox: Server) -> None:
    fault(sandbox, status=500)
    assert len(sandbox.control("GET", "faults")) == 1
    assert call(sandbox, "GET", "/").status == 200


def test_a_fault_can_be_taken_away(sandbox: Server) -> None:
    fault(sandbox, part="engage", status=500)
    fault(sandbox, part="publisher", status=500)
    first, second = sandbox.control("GET", "faults")
    assert sandbox.control("DELETE", f"faults/{first['number']}") == [second]
    with pytest.raises(ValueError, match="no fault has the number 99"):
        sandbox.control("DELETE", "faults/99")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nonsense=1,status=500", "unknown member 'nonsense'"),
        ("status=soon", "fault: status takes a whole number, not 'soon'"),
        ("status=700", "'status' is out of range: 700"),
        ("part=engag,status=500", "fault: part takes publisher or reports or engage or page or nobody, not 'engag'"),
        ("when=later,reset", "fault: when takes before or after, not 'later'"),
        ("part=engage", "say what happens"),
        ("status=500,reset", "'status' and 'reset' cannot both be the answer"),
        ("reset,retry_after=5", "'retry_after' goes with 'status' only"),
        ("status=500,every=0", "'every' is out of range: 0"),
        ("status=500,probability=2", "'probability' is out of range: 2.0"),
        ("latency=-1", "fault: latency takes a number, not '-1'"),
        ("reset=perhaps", "fault: reset takes true or false, not 'perhaps'"),
        ("{broken", "not JSON"),
        (["status"], "a fault is a JSON object, not list"),
        ({"status": 500, "headers": "a"}, "fault: headers takes an object, not 'a'"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_by_name(sandbox: Server, given: object, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        sandbox.sandbox.part(Faults).add(given)
    assert message in str(caught.value)


def test_a_flag_says_the_same_as_json(sandbox: Server) -> None:
    faults = sandbox.sandbox.part(Faults)
    flag = faults.add("part=engage,path=/ingest/*,status=503,times=5,reset=false,when=after").fault
    assert (
        flag == faults.add('{"part": "engage", "path": "/ingest/*", "status": 503, "times": 5, "when": "after"}').fault
    )
