"""Limits: what is refused, what is said then, and that violations are counted to the last one."""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.limits import Bucket, Limits, Watch
from piano_engage_sandbox.rules import RuleError

if TYPE_CHECKING:
    from piano_engage_sandbox.server import Server


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(sandbox: Server) -> Clock:
    """The clock that the limits go by."""
    moved = Clock()
    sandbox.call(lambda: setattr(sandbox.sandbox.part(Limits), "time", moved))
    return moved


def ask(server: Server, user: str = "u1", count: int = 1) -> list[tuple[int, str | None]]:
    """Statuses and `Retry-After` of some requests, one after another."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    answers = []
    for _ in range(count):
        connection.request("POST", f"/ingest/property?id={server.sandbox.app_id}&userId={user}&properties[a]=1")
        response = connection.getresponse()
        response.read()
        answers.append((response.status, response.headers["Retry-After"]))
    connection.close()
    return answers


def violations(server: Server) -> int:
    return int(server.control("GET", "counters")["violations"])


def test_what_goes_beyond_the_rate_is_refused_and_counted(sandbox: Server, clock: Clock) -> None:
    sandbox.control("POST", "limits", {"part": "engage", "rate": 5})
    assert [status for status, _ in ask(sandbox, count=8)] == [200] * 5 + [429] * 3
    clock.now += 0.4
    assert [status for status, _ in ask(sandbox, count=3)] == [200] * 2 + [429]
    (limit,) = sandbox.control("GET", "limits")
    assert (limit["requests"], limit["violations"], violations(sandbox)) == (11, 4, 4)


@pytest.mark.parametrize("double", ["counts nothing", "lets through"])
def test_a_limiter_that_does_not_count_would_be_found(
    monkeypatch: pytest.MonkeyPatch, sandbox: Server, clock: Clock, double: str
) -> None:
    enter = Watch.enter

    def broken(self: Watch, entry: Any, moment: float) -> float | None:  # noqa: ANN401 - a double
        wait = enter(self, entry, moment)
        self.violations = 0 if double == "counts nothing" else self.violations
        return None if double == "lets through" else wait

    monkeypatch.setattr(Watch, "enter", broken)
    with pytest.raises(AssertionError):
        test_what_goes_beyond_the_rate_is_refused_and_counted(sandbox, clock)


def test_a_client_within_the_rate_is_never_refused(sandbox: Server, clock: Clock) -> None:
    sandbox.control("POST", "limits", {"part": "engage", "rate": 4, "burst": 1})
    for _ in range(20):
        assert ask(sandbox) == [(200, None)]
        clock.now += 0.25
    assert violations(sandbox) == 0


def test_a_burst_may_come_after_a_pause(sandbox: Server, clock: Clock) -> None:
    sandbox.control("POST", "limits", {"part": "engage", "rate": 1, "burst": 3})
    assert [status for status, _ in ask(sandbox, count=4)] == [200, 200, 200, 429]
    clock.now += 100
    assert [status for status, _ in ask(sandbox, count=4)] == [200, 200, 200, 429]


def test_retry_after_says_how_long_or_is_left_out(sandbox: Server, clock: Clock) -> None:
    sandbox.control("POST", "limits", {"user": "told", "rate": 0.2, "burst": 1})
    sandbox.control("POST", "limits", {"user": "untold", "rate": 0.2, "burst": 1, "retry_after": False})
    assert ask(sandbox, "told", 2) == [(200, None), (429, "5")]
    assert ask(sandbox, "untold", 2) == [(200, None), (429, None)]
    clock.now += 5
    assert ask(sandbox, "told") == [(200, None)]


@pytest.mark.usefixtures("clock")
def test_a_limit_may_only_count(sandbox: Server) -> None:
    sandbox.control("POST", "limits", {"part": "engage", "rate": 2, "only_count": True})
    assert [status for status, _ in ask(sandbox, count=5)] == [200] * 5
    assert violations(sandbox) == 3


@pytest.mark.usefixtures("clock")
def test_each_user_may_have_a_limit_of_its_own(sandbox: Server) -> None:
    sandbox.control("POST", "limits", {"part": "engage", "rate": 1, "per": "user", "status": 503})
    assert [ask(sandbox, user)[0][0] for user in ("u1", "u2", "u1", "u2", "u3")] == [200, 200, 503, 503, 200]


@pytest.mark.usefixtures("clock")
def test_requests_that_name_no_application_do_not_share_its_limit(sandbox: Server) -> None:
    """Downloads by signed links of several applications at once count against none of them."""
    sandbox.control("POST", "limits", {"part": "engage", "rate": 1, "at_once": 1, "per": "aid"})
    assert [status for status, _ in ask(sandbox, count=3)] == [200] * 3
    (limit,) = sandbox.control("GET", "limits")
    assert (limit["requests"], limit["violations"]) == (0, 0)


def test_what_is_in_flight_can_be_limited(sandbox: Server) -> None:
    sandbox.control("POST", "limits", {"part": "engage", "at_once": 2})
    sandbox.control("POST", "faults", {"part": "engage", "latency": 0.3})
    barrier = threading.Barrier(5)

    def one(number: int) -> int:
        barrier.wait()
        return ask(sandbox, f"u{number}")[0][0]

    with ThreadPoolExecutor(5) as pool:
        assert sorted(pool.map(one, range(5))) == [200, 200, 429, 429, 429]
    assert violations(sandbox) == 3
    assert ask(sandbox) == [(200, None)]


@pytest.mark.usefixtures("clock")
def test_the_control_endpoint_and_the_page_are_never_limited(sandbox: Server) -> None:
    sandbox.control("POST", "limits", {"rate": 1, "burst": 1})
    for _ in range(5):
        sandbox.control("GET", "clock")
    assert violations(sandbox) == 0
    sandbox.control("DELETE", "limits")
    assert [status for status, _ in ask(sandbox, count=3)] == [200] * 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"part": "engage"}, "say 'rate' (requests a second), 'at_once' (requests in flight), or both"),
        ({"rate": 0}, "rate takes more than 0"),
        ({"rate": 5, "burst": 0}, "burst takes more than 0"),
        ({"rates": 5}, "unknown member 'rates'"),
        ({"rate": 5, "per": "day"}, "limit: per takes all or user or aid or connection, not 'day'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(sandbox: Server, given: object, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        sandbox.sandbox.part(Limits).add(given)
    assert message in str(caught.value)


def test_a_bucket_gives_no_more_than_its_rate_over_any_time() -> None:
    bucket = Bucket(10.0, 1, 0.0)
    taken = sum(bucket.take(moment / 1000) == 0.0 for moment in range(10_000))
    assert 99 <= taken <= 100
