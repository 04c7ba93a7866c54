"""The ping: segments of a user, events of trackers, traits without a secret, and calls about prompts."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.engage.ping import Pings
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

READER = {"user-id": "reader-1"}


def get(server: Server, target: str, headers: dict[str, str] | None = None) -> tuple[int, Any, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", target, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None, answer.getheader("ETag")
    finally:
        connection.close()


def ping(server: Server, query: str = "", **headers: str) -> tuple[int, Any, str | None]:
    return get(server, f"/ping?id={server.sandbox.app_id}&{query}", {**READER, **headers})


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.sandbox.part(Engage).write("reader-1", {"plan": "gold"}, source="test")
        yield server


def test_a_ping_names_the_segments_of_the_user(server: Server):
    engage = server.sandbox.part(Engage)
    engage.define_segments(
        [{"name": "Gold", "filters": [{"trait": "plan", "values": ["gold"]}]}, {"name": "Off", "enabled": False}]
    )
    _, body, _ = ping(server)
    assert [segment["name"] for segment in body["segments"]] == ["All Users", "Gold"]
    assert all(segment["id"] for segment in body["segments"])
    assert body["paths"] == []


def test_a_ping_tells_when_to_ask_again_and_who_it_takes_one_for(server: Server):
    status, body, _ = ping(server, "device_type=roku", **{"anonymous-user-id": "visitor-1"})
    assert status == 200
    assert set(body["configs"]) == {"ping_frequency", "last_update", "device_type", "usage"}
    assert body["configs"]["device_type"] == "roku"
    assert (body["anonymous_user_id"], body["visitor_id"]) == ("visitor-1", "reader-1")


def test_the_application_id_may_stand_in_a_header(server: Server):
    _, body, _ = get(server, "/ping", {**READER, "rf-app": server.sandbox.app_id})
    assert body["segments"]


def test_who_has_the_answer_gets_304(server: Server):
    _, _, tag = ping(server)
    assert tag
    status, body, _ = ping(server, **{"If-None-Match": tag})
    assert (status, body) == (304, None)
    server.sandbox.part(Engage).define_segments([{"name": "New"}])
    assert ping(server, **{"If-None-Match": tag})[0] == 200


def test_an_unknown_application_or_user_gets_200_without_segments(server: Server):
    assert get(server, "/ping?id=other", READER)[1]["segments"] == []
    assert ping(server, **{"user-id": "nobody"})[1]["segments"] == []
    assert server.sandbox.part(Engage).users == 1


def test_an_event_of_a_tracker_is_recorded(server: Server):
    server.sandbox.part(Pings).define_trackers(["Bought"])
    (tracker,) = server.sandbox.part(Pings).trackers
    assert ping(server, f"type=custom&custom_field_id={tracker}&device_type=web")[0] == 200
    (event,) = server.sandbox.part(Pings).events
    assert (event.kind, event.subject, event.user_id, event.details) == (
        "custom",
        tracker,
        "reader-1",
        {"device_type": "web"},
    )


def test_events_of_unknown_trackers_and_applications_are_dropped_in_silence(server: Server):
    (tracker,) = server.sandbox.part(Pings).trackers
    assert ping(server, "type=custom&custom_field_id=other")[0] == 200
    assert get(server, f"/ping?id=other&type=custom&custom_field_id={tracker}", READER)[0] == 200
    assert not server.sandbox.part(Pings).events


def test_traits_may_be_set_by_a_client_without_the_key(server: Server):
    ping(server, "send_ts=1&properties[favourite%20team]=blue%20%26%20white")
    user = server.sandbox.part(Engage).user("reader-1")
    assert user is not None
    assert user.traits == {"plan": "gold", "favourite team": "blue & white"}
    assert user.source == "ping"


def test_a_ping_is_activity(server: Server):
    server.sandbox.now.advance(80 * 86_400)
    ping(server)
    server.sandbox.now.advance(80 * 86_400)
    assert server.sandbox.part(Engage).users == 1
    server.sandbox.now.advance(11 * 86_400)
    assert server.sandbox.part(Engage).users == 0


@pytest.mark.parametrize(
    ("target", "kind", "subject", "details"),
    [
        ("/paths/p1/impression?trigger_id=t&x=tv", "impression", "p1", {"trigger_id": "t", "x": "tv"}),
        ("/paths/p1/goal?accept_type=accept2", "goal", "p1", {"accept_type": "accept2"}),
        ("/paths/p1/dismiss?click=timeout", "dismiss", "p1", {"click": "timeout"}),
        ("/paths/p1/holdout", "holdout", "p1", {}),
        ("/paths/goal_reset_all?client_reset_complete=true", "goal_reset_all", "", {"client_reset_complete": "true"}),
    ],
)  # fmt: skip
def test_calls_about_prompts_are_recorded(
    server: Server, target: str, kind: str, subject: str, details: dict[str, str]
):
    status, body, _ = get(server, target, READER)
    assert (status, body["success"]) == (200, True)
    assert body["configs"]["ping_frequency"] > 0
    (event,) = server.sandbox.part(Pings).events
    assert (event.kind, event.subject, event.user_id, event.details) == (kind, subject, "reader-1", details)
