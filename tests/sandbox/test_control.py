"""The control endpoint: clock, switches, reset, and errors that name what is wrong."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import pytest
from piano_engage_sandbox.control import TABLE
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from piano_engage_sandbox.server import Server


def test_the_overview_names_every_route_and_what_it_does(sandbox: Server) -> None:
    overview = sandbox.control("GET", "")
    assert len(overview["routes"]) == len(TABLE)
    assert all(text.endswith(".") or ":" in text for text in overview["routes"].values())
    assert overview["sandbox"] == sandbox.url


def test_the_clock_stands_still_until_it_is_moved(sandbox: Server) -> None:
    before = sandbox.control("GET", "clock")
    assert before == sandbox.control("GET", "clock")
    assert before["local"] == "2026-03-28T06:00:00+01:00"
    assert before["running"] is False
    after = sandbox.control("POST", "clock", {"advance": "3d"})
    assert after["now"] == before["now"] + 3 * 86_400
    assert after["local"] == "2026-03-31T07:00:00+02:00"


@pytest.mark.parametrize(
    ("advance", "seconds"),
    [("90m", 5400), ("1d12h", 129_600), ("2w", 1_209_600), (17, 17), ("0.5h", 1800), ("8", 8), (0.25, 0.25)],
)
def test_the_clock_is_advanced_by_a_duration(sandbox: Server, advance: object, seconds: float) -> None:
    before = sandbox.control("GET", "clock")["now"]
    assert sandbox.control("POST", "clock", {"advance": advance})["now"] == before + seconds


def test_the_clock_is_set_to_a_local_moment(sandbox: Server) -> None:
    assert sandbox.control("POST", "clock", {"set": "2026-04-01T06:00"})["utc"] == "2026-04-01T04:00:00+00:00"
    assert sandbox.control("POST", "clock", {"set": "2026-04-01T06:00Z"})["utc"] == "2026-04-01T06:00:00+00:00"


def test_the_clock_can_run_and_stand(sandbox: Server) -> None:
    assert sandbox.control("POST", "clock", {"running": True})["running"] is True
    first = sandbox.control("GET", "clock")["now"]
    while sandbox.control("GET", "clock")["now"] == first:
        pass
    assert sandbox.control("POST", "clock", {"running": False})["running"] is False
    assert sandbox.control("GET", "clock")["now"] == sandbox.control("GET", "clock")["now"]


def test_time_that_passes_changes_subscriptions(sandbox: Server) -> None:
    app = next(iter(sandbox.sandbox.piano.values()))
    users = sandbox.call(lambda: sorted(app.world.users()))
    before = [sandbox.control("GET", f"app/{app.aid}/subscriptions?uid={user}") for user in users[:60]]
    sandbox.control("POST", "clock", {"advance": "60d"})
    after = [sandbox.control("GET", f"app/{app.aid}/subscriptions?uid={user}") for user in users[:60]]
    assert [[entry["status"] for entry in found] for found in before] != [
        [entry["status"] for entry in f] for f in after
    ]


@pytest.mark.parametrize(
    ("method", "path", "content", "message"),
    [
        ("POST", "clock", {"advance": "soon"}, "advance takes seconds or a duration like 3d, 90m, 1d12h, not 'soon'"),
        ("POST", "clock", {"advance": -5}, "the sandbox's clock does not go back: advance is in the past"),
        ("POST", "clock", {"set": "2020-01-01T00:00"}, "does not go back: set is in the past"),
        ("POST", "clock", {"set": "tomorrow"}, "not a date-time: 'tomorrow'"),
        ("POST", "clock", {"set": "2026-05-01T00:00", "advance": 1}, "advance and set cannot both be given"),
        ("POST", "clock", {"running": "yes"}, "running takes true or false, not 'yes'"),
        ("POST", "clock", {"advanced": 1}, "unknown member 'advanced'; there are: advance, running, set"),
        ("POST", "clock", [1], "the body is a JSON object, not list"),
        ("POST", "switches", {"reports.packing": "zip"}, "no switch 'reports.packing'"),
        ("POST", "switches", {"reports.packed": "rar"}, "switch reports.packed takes csv, zip: 'rar'"),
        ("POST", "faults", {"statuss": 1}, "unknown member 'statuss'"),
        ("GET", "app/Nobody/subscriptions?uid=u", None, "no application 'Nobody'; there are: ExAmPlE4a1"),
        ("GET", "app/ExAmPlE4a1/subscriptions", None, "uid is missing"),
        ("GET", "minutes?last=x", None, "last takes a number, not 'x'"),
        ("PUT", "engage/segments", {"name": "x"}, "the body is a JSON list of objects"),
        ("POST", "engage/traits", {"a": "number"}, "trait 'a' takes an object with type"),
        ("POST", "engage/traits", {"a": {"type": "numeric"}}, "trait 'a': no type 'numeric'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    sandbox: Server, method: str, path: str, content: object, message: str
) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        sandbox.control(method, path, content)
    assert message in str(caught.value)


def test_a_body_that_is_no_json_is_refused(sandbox: Server) -> None:
    for path in ("clock", "faults"):
        connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10)
        connection.request("POST", f"/_sandbox/{path}", "{advance")
        response = connection.getresponse()
        assert response.status == 400
        assert "the body is not JSON" in json.loads(response.read())["error"]
        connection.close()


def test_a_switch_is_set_and_one_wrong_switch_sets_none(sandbox: Server) -> None:
    assert sandbox.control("POST", "switches", {"reports.packed": "zip"})["reports.packed"] == "zip"
    with pytest.raises(ValueError, match="no switch"):
        sandbox.control("POST", "switches", {"reports.packed": "csv", "nonsense.x": 1})
    assert sandbox.control("GET", "switches")["reports.packed"] == "zip"
    assert sandbox.sandbox.switches.reports.packed == "zip"


def test_of_several_faults_one_wrong_adds_none(sandbox: Server) -> None:
    with pytest.raises(ValueError, match="say what happens"):
        sandbox.control("POST", "faults", [{"part": "engage", "status": 500}, {"part": "engage"}])
    assert sandbox.control("GET", "faults") == []
    assert len(sandbox.control("POST", "faults", [{"status": 500, "times": 1}, {"latency": 0.1}])) == 2


def test_a_reset_forgets_what_tests_left_and_keeps_clock_and_switches(sandbox: Server) -> None:
    sandbox.control("POST", "clock", {"advance": "1d"})
    sandbox.control("POST", "switches", {"reports.packed": "zip"})
    sandbox.control("POST", "faults", {"status": 500, "part": "reports"})
    sandbox.control("POST", "limits", {"rate": 5, "part": "reports"})
    sandbox.control("PUT", "engage/user/u1/collections/subscriptions", [{"plan_code": "gold"}])
    now = sandbox.control("GET", "clock")["now"]
    sandbox.control("POST", "reset")
    assert sandbox.control("GET", "faults") == sandbox.control("GET", "limits") == []
    assert sandbox.control("GET", "engage")["users"] == 0
    assert sandbox.control("GET", "clock")["now"] == now
    assert sandbox.control("GET", "switches")["reports.packed"] == "zip"


def test_credentials_of_all_applications_are_told() -> None:
    with serving(apps=(App(aid="First", rows=50), App(aid="Second", rows=50, timezone="UTC"))) as server:
        first, second = server.control("GET", "apps")
    assert (first["aid"], second["aid"], second["timezone"]) == ("First", "Second", "UTC")
    assert first["api_token"] != second["api_token"]


def test_traits_segments_and_collections_are_set_as_an_administrator_does(sandbox: Server) -> None:
    sandbox.control("PUT", "engage/user/u1/collections/subscriptions", [{"plan_code": "gold"}])
    sandbox.control("POST", "engage/traits", {"days_left": {"type": "number", "description": "until the end"}})
    filters = [{"collection": "subscriptions", "attribute": "plan_code", "match": "include", "values": ["gold"]}]
    segments = sandbox.control("PUT", "engage/segments", [{"name": "Gold", "filters": filters}])
    assert {segment["name"]: segment["size"] for segment in segments} == {"All Users": 1, "Gold": 1}
    user = sandbox.control("GET", "engage/user/u1")
    assert (user["segments"], user["collections"]) == (
        ["All Users", "Gold"],
        {"subscriptions": [{"plan_code": "gold"}]},
    )
    assert sandbox.control("GET", "engage")["traits"]["days_left"]["type"] == "number"
    assert sandbox.control("GET", "engage/user/nobody") is None


def test_exports_are_scripted_and_told(sandbox: Server) -> None:
    told = sandbox.control("POST", "reports", {"script": ["CREATED", "INTERNAL_ERROR"], "error_text": "no luck"})
    assert told["scripts"] == {"ExAmPlE4a1": [["CREATED", "INTERNAL_ERROR"]]}
    assert sandbox.control("GET", "reports")["jobs"] == []
    with pytest.raises(ValueError, match="'script' is a list of statuses"):
        sandbox.control("POST", "reports", {"script": "CREATED"})


def test_webhooks_are_configured_tested_skipped_and_sent_again(sandbox: Server) -> None:
    nowhere = {"url": "http://127.0.0.1:9/", "enabled": True, "repeat": 1}
    told = sandbox.control("POST", "webhooks", nowhere)
    assert {name: told[name] for name in (*nowhere, "swap", "drop")} == {**nowhere, "swap": 0, "drop": 0}
    queued = sandbox.control("POST", "webhooks/test")
    assert [event["id"] for event in sandbox.control("GET", "webhooks/log")] == [queued["id"]]
    sent = sandbox.control("POST", f"webhooks/{queued['id']}/resend")
    assert (sent["succeeded"], sent["status"]) == (False, None)
    assert sandbox.control("POST", f"webhooks/{queued['id']}/skip")["id"] == queued["id"]
    with pytest.raises(ValueError, match="webhook"):
        sandbox.control("POST", "webhooks/nobody/skip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"aid": "Nobody"}, "no application 'Nobody'"),
        ({"repeat": -1}, "repeat takes a whole number, not -1"),
        ({"events": {"a": "yes"}}, "events takes an object of true and false"),
        ({"urls": "x"}, "unknown member 'urls'"),
    ],
)
def test_a_wrong_setting_of_webhooks_is_refused_by_name(sandbox: Server, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        sandbox.control("POST", "webhooks", content)
    assert message in str(caught.value)


def test_of_several_applications_one_must_be_named() -> None:
    with (
        serving(apps=(App(aid="First", rows=50), App(aid="Second", rows=50))) as server,
        pytest.raises(ValueError, match="say which aid: First, Second"),
    ):
        server.control("GET", "webhooks")
