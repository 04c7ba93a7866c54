"""Sending requests: what is tried again and how long, how waits grow, how pace is kept, what is told of a request."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import requests
from piano_engage_common.stops import Outage
from piano_engage_common.transport import Patience, RunEnds, Stopping, Transport, TryAgain, conceal_queries, label_of
from piano_engage_sandbox.testing import serving
from requests.auth import HTTPBasicAuth
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_common.transport import Answer
    from piano_engage_sandbox.server import Server
    from tenacity import RetryCallState

LOGGER = logging.getLogger("tests")
TOKEN = "planted-token"  # noqa: S105 - planted
FIRST_WAIT = 2.0
PATIENT = Patience(timeout=5.0, attempts=6, wait=FIRST_WAIT, total=3600.0)


@dataclass(slots=True)
class Recording(Stopping):
    """Notes how long it should wait, and does not."""

    waits: list[float] = field(default_factory=list)

    @override
    def wait(self, seconds: float) -> None:
        """Note it."""
        self.waits.append(seconds)


@pytest.fixture
def piano() -> Iterator[Server]:
    with serving(rows=20) as server:
        yield server


@pytest.fixture
def stopping() -> Recording:
    return Recording()


def transport(stopping: Stopping, patience: Patience = PATIENT, rate: float = 0.0) -> Transport:
    return Transport(patience=patience, rate=rate, logger=LOGGER, stopping=stopping)


def ask(one: Transport, server: Server) -> Answer:
    """Ask for the terms, as often as it takes."""
    url = f"{server.url}/api/v3/publisher/term/list"
    lines = server.environment()
    headers, params = {"api_token": lines["TAP_PIANO_API_TOKEN"]}, {"aid": lines["TAP_PIANO_AID"], "token": TOKEN}
    return one.retrying(label_of("GET", url), lambda: one.once("GET", url, params=params, headers=headers))


def fault(server: Server, **members: Any) -> None:  # noqa: ANN401 - JSON
    server.control("POST", "faults", {"part": "publisher", **members})


def count(server: Server) -> int:
    return int(server.control("GET", "counters")["requests"])


# Attempts


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 505, 520, 521, 522, 523, 524, 529])
def test_a_status_of_a_bad_moment_is_tried_again(status: int, piano: Server, stopping: Recording) -> None:
    fault(piano, status=status, times=2)
    assert ask(transport(stopping), piano).status == 200
    assert count(piano) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410])
def test_any_other_status_is_handed_on_at_once(status: int, piano: Server, stopping: Recording) -> None:
    fault(piano, status=status)
    assert ask(transport(stopping), piano).status == status
    assert count(piano) == 1
    assert stopping.waits == []


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_no_more_attempts_than_allowed(attempts: int, piano: Server, stopping: Recording) -> None:
    fault(piano, status=503)
    with pytest.raises(Outage, match=rf"503 Service Unavailable; given up .* \(retry_attempts is {attempts}, "):
        ask(transport(stopping, Patience(attempts=attempts)), piano)
    assert count(piano) == attempts
    assert len(stopping.waits) == attempts - 1


@pytest.mark.parametrize("asked", ["3600", "9" * 400])
def test_no_attempt_begins_after_the_total_time(asked: str, piano: Server, stopping: Recording) -> None:
    fault(piano, status=429, retry_after=asked)
    with pytest.raises(Outage, match=r"which asks to wait .* s; given up .* retry_seconds 100"):
        ask(transport(stopping, Patience(attempts=50, total=100.0)), piano)
    assert count(piano) == 1
    assert stopping.waits == []


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "reset": ({"reset": True}, "lost its connection, or found none"),
    "cut": ({"truncate": 20}, "lost its connection, or found none"),
    "hang": ({"hang": True}, "was not answered in time"),
    "drops": ({"bytes_per_second": 200}, "did not end within 1 s"),
    "HTML": ({"html": True}, "was answered with HTML"),
    "a list": ({"status": 200, "body": "[1]"}, "was answered with something that is not a JSON object"),
    "nothing": ({"status": 200, "body": ""}, "was answered with something that is not a JSON object"),
    "no gzip": (
        {"status": 200, "body": "plain", "headers": {"Content-Encoding": "gzip"}},
        "was answered with a body that cannot be unpacked",
    ),
    "a status without a name": ({"status": 529}, "was answered with 529"),
}


@pytest.mark.parametrize(("members", "words"), PROBLEMS.values(), ids=list(PROBLEMS))
def test_the_error_says_what_happened_and_where_but_not_what_was_asked(
    members: dict[str, Any], words: str, piano: Server, stopping: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    fault(piano, **members)
    with pytest.raises(Outage) as stopped:
        ask(transport(stopping, Patience(timeout=1, attempts=2)), piano)
    assert str(stopped.value).startswith(f"GET /api/v3/publisher/term/list {words}; given up")
    assert "the next run goes on from the last bookmark" in str(stopped.value)
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    assert line.startswith(f"GET /api/v3/publisher/term/list {words}; attempt 2 of 2 follows in ")
    assert TOKEN not in caplog.text + str(stopped.value)


def test_a_server_that_is_not_there_is_an_outage(stopping: Recording) -> None:
    with serving(rows=5) as server:
        pass
    with pytest.raises(Outage, match="lost its connection, or found none"):
        ask(transport(stopping, Patience(attempts=2)), server)


def test_what_is_no_problem_of_the_connection_is_raised_as_it_is(stopping: Recording) -> None:
    def attempt() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        transport(stopping).retrying("GET /x", attempt)
    assert stopping.waits == []


def test_a_run_that_is_to_end_waits_no_more(piano: Server) -> None:
    stopping = Stopping()
    stopping.event.set()
    fault(piano, status=503)
    with pytest.raises(RunEnds):
        ask(transport(stopping, Patience(wait=3600.0, total=1e9)), piano)
    assert count(piano) == 1


# Waits


def test_waits_double_up_to_a_bound_and_are_jittered(piano: Server, stopping: Recording) -> None:
    fault(piano, status=503)
    with pytest.raises(Outage):
        ask(transport(stopping, Patience(attempts=10, wait=1.0, total=1e9)), piano)
    ceilings = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert len(stopping.waits) == len(ceilings)
    assert all(top / 2 <= wait <= top for wait, top in zip(stopping.waits, ceilings, strict=True))
    assert len(set(stopping.waits)) == len(ceilings)


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:29:30 GMT"
FLOORS: dict[str, tuple[dict[str, Any], float]] = {
    "seconds": ({"retry_after": "7"}, 7.0),
    "many seconds": ({"retry_after": "300"}, 300.0),
    "part of a second": ({"retry_after": "2.5"}, 2.5),
    "no number of seconds": ({"retry_after": "nan"}, 0.0),
    "none at all": ({"retry_after": "0"}, 0.0),
    "a date, by the server's own clock": ({"headers": {"Date": DATE, "Retry-After": LATER}}, 90.0),
    "a date that is over": ({"headers": {"Date": LATER, "Retry-After": DATE}}, 0.0),
    "nonsense": ({"retry_after": "soon"}, 0.0),
    "a negative number": ({"retry_after": "-5"}, 0.0),
    "absent": ({}, 0.0),
}


@pytest.mark.parametrize(("members", "floor"), FLOORS.values(), ids=list(FLOORS))
@pytest.mark.parametrize("status", [429, 503])
def test_what_the_server_asks_to_wait_is_the_least_that_is_waited(
    status: int, members: dict[str, Any], floor: float, piano: Server, stopping: Recording
) -> None:
    fault(piano, status=status, times=3, **members)
    ask(transport(stopping), piano)
    bounds = [(floor + FIRST_WAIT * 2**n / 2, floor + FIRST_WAIT * 2**n) for n in range(3)]
    assert len(stopping.waits) == 3
    assert all(low <= wait <= high for wait, (low, high) in zip(stopping.waits, bounds, strict=True)), stopping.waits


def test_with_no_wait_of_our_own_the_server_s_still_counts(piano: Server, stopping: Recording) -> None:
    fault(piano, status=429, retry_after="7", times=2)
    ask(transport(stopping, Patience(wait=0.0)), piano)
    assert stopping.waits == [7.0, 7.0]


def test_the_waits_would_notice_jitter_below_the_floor(piano: Server, stopping: Recording) -> None:
    class FullJitter(Transport):
        """Jitters the whole wait, as the SDK does."""

        @override
        def _wait(self, state: RetryCallState) -> float:
            return super()._wait(state) * 0.1

    fault(piano, status=429, retry_after="300", times=3)
    ask(FullJitter(patience=PATIENT, rate=0, logger=LOGGER, stopping=stopping), piano)
    assert max(stopping.waits) < 300.0


# Pace


def burst(rate: float, server: Server) -> int:
    """Send 24 requests from four threads, a third of them twice; returns how many came too early at the server.

    The server lets eight come at once: that much may a busy machine delay and bunch.
    """
    server.control("POST", "limits", {"part": "publisher", "rate": 40, "burst": 8, "only_count": True})
    fault(server, status=503, every=4)
    one = transport(Stopping(), Patience(attempts=24, wait=0.0), rate)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(one, server), range(24)))
    assert [answer.status for answer in answers] == [200] * 24
    assert count(server) == 32
    return int(server.control("GET", "counters")["violations"])


def test_all_threads_and_attempts_together_keep_the_pace(piano: Server) -> None:
    assert burst(40, piano) == 0


def test_the_server_would_notice_a_pace_that_is_not_kept(piano: Server) -> None:
    assert burst(0, piano) > 0


def test_no_more_requests_are_in_flight_than_allowed(piano: Server) -> None:
    fault(piano, latency=0.02)
    one = Transport(patience=PATIENT, rate=0, logger=LOGGER, at_once=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(one, piano), range(12)))
    assert piano.control("GET", "counters")["most_in_flight"] == 2


# Secrets


class Listener(ThreadingHTTPServer):
    """Notes the headers of each request; answers all with an empty object, or sends on elsewhere."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port."""
        self.heard: list[dict[str, str]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            @override
            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login somebody password something\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.usefixtures("netrc")
def test_credentials_of_a_netrc_stay_where_they_are(stopping: Recording, listener: Listener) -> None:
    transport(stopping).once("GET", listener.url)
    assert "authorization" not in listener.heard[0]


@pytest.mark.usefixtures("netrc")
def test_a_session_that_sends_the_netrc_would_be_noticed(stopping: Recording, listener: Listener) -> None:
    class Plain(Transport):
        """Uses a session as requests makes it."""

        @override
        def _session(self) -> requests.Session:
            return requests.Session()

    Plain(patience=PATIENT, rate=0, logger=LOGGER, stopping=stopping).once("GET", listener.url)
    assert (
        listener.heard[0]["authorization"]
        == HTTPBasicAuth("somebody", "something")(requests.Request()).headers["Authorization"]
    )


def test_a_token_is_not_carried_to_where_an_answer_sends_us_on(
    piano: Server, stopping: Recording, listener: Listener
) -> None:
    fault(piano, status=302, headers={"Location": listener.url})
    assert ask(transport(stopping), piano).status == 302
    assert listener.heard == []


URLLIB3 = ("urllib3.connectionpool", "urllib3.util.retry", "urllib3.connection", "urllib3.response")


def test_queries_stay_out_of_the_debug_log(
    piano: Server, stopping: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG", logger="urllib3"):
        ask(transport(stopping), piano)
    assert "GET /api/v3/publisher/term/list HTTP/1.1" in caplog.text
    assert TOKEN not in caplog.text


def test_without_the_filter_the_token_would_be_found(
    piano: Server, stopping: Recording, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = transport(stopping)
    monkeypatch.setattr(logging.getLogger(URLLIB3[0]), "filters", [])
    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG", logger="urllib3"):
        ask(one, piano)
    assert TOKEN in caplog.text


def test_the_filter_is_put_up_once() -> None:
    for _ in range(3):
        conceal_queries()
    assert [len(logging.getLogger(name).filters) for name in URLLIB3] == [1] * 4


def test_a_request_is_named_without_its_query() -> None:
    assert label_of("GET", f"https://example.com/rest/export/status?api_token={TOKEN}") == "GET /rest/export/status"
    assert TryAgain("broke", not_before=3.0).not_before == 3.0
