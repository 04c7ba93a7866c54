"""Segments: what an administrator types, who passes, and what is refused."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.engage.segments import SegmentError
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.engage.values import CLEAR
from piano_engage_sandbox.service import Options, Sandbox
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_engage_sandbox.engage.values import Value

DAY = 86_400
HOUR = 3600


@pytest.fixture
def sandbox() -> Sandbox:
    return make()


def make(**switches: object) -> Sandbox:
    given = {f"engage.{name}": value for name, value in switches.items()}
    return Sandbox(Options(begins="2026-03-28T06:00", running=False, switches=given))


def members(
    sandbox: Sandbox, *rows: dict[str, Any], users: Mapping[str, Mapping[str, Value]] | None = None
) -> set[str]:
    """Define one segment of these rows, write the users, and list those who are in it."""
    engage = sandbox.part(Engage)
    for user_id, traits in (users or {}).items():
        engage.write(user_id, traits, source="test")
    engage.define_segments([{"name": "S", "filters": list(rows)}])
    segment = engage.segment("S")
    assert segment is not None
    return set(segment.members)


def now_in(sandbox: Sandbox, name: str = "S") -> set[str]:
    segment = sandbox.part(Engage).segment(name)
    assert segment is not None
    return set(segment.members)


PLANS: dict[str, dict[str, Value]] = {
    "a": {"plan": "gold"},
    "b": {"plan": "Gold"},
    "c": {"plan": "none"},
    "d": {"n": 1},
}


def test_all_users_is_there_from_the_start(sandbox: Sandbox):
    engage = sandbox.part(Engage)
    engage.write("a", {}, source="api")
    assert [(segment.name, segment.size) for segment in engage.segments] == [("All Users", 1)]


def test_include_takes_the_listed_values_case_and_all(sandbox: Sandbox):
    assert members(sandbox, {"trait": "plan", "mode": "include", "values": ["gold", "none"]}, users=PLANS) == {"a", "c"}


def test_exclude_takes_everybody_else_also_those_without_the_trait(sandbox: Sandbox):
    assert members(sandbox, {"trait": "plan", "mode": "exclude", "values": ["gold"]}, users=PLANS) == {"b", "c", "d"}


def test_booleans_and_numbers_are_listed_as_texts(sandbox: Sandbox):
    users: dict[str, dict[str, Value]] = {
        "a": {"x": True},
        "b": {"x": "true"},
        "c": {"x": 5},
        "d": {"x": "5"},
        "e": {"x": None},
    }
    assert members(sandbox, {"trait": "x", "values": [True]}, users=users) == {"a", "b"}
    assert members(sandbox, {"trait": "x", "values": ["5"]}) == {"c", "d"}
    assert members(sandbox, {"trait": "x", "values": ["null"]}) == set()


NUMBERS: dict[str, dict[str, Value]] = {
    "a": {"n": 0}, "b": {"n": "3"}, "c": {"n": 7.5}, "d": {"n": "many"}, "e": {"n": True}, "f": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"from": 0, "to": 3}, {"a", "b"}),
        ({"from": 3}, {"b", "c"}),
        ({"to": 3}, {"a", "b"}),
        ({"from": 3, "mode": "exclude"}, {"a", "d", "e", "f"}),
    ],
)
def test_sliders_have_inclusive_bounds(given: dict[str, Any], expected: set[str]):
    assert members(make(), {"trait": "n", **given}, users=NUMBERS) == expected


def test_normalized_sliders_go_by_percentile_and_follow_everybody(sandbox: Sandbox):
    users: dict[str, dict[str, Value]] = {f"u{n}": {"n": n * n} for n in range(11)}
    assert members(sandbox, {"trait": "n", "from": 8, "to": 10, "normalize": True}, users=users) == {"u8", "u9", "u10"}
    sandbox.part(Engage).write("u0", {"n": 1000}, source="api")
    assert now_in(sandbox) == {"u0", "u9", "u10"}


DATES: dict[str, dict[str, Value]] = {
    "past": {"d": "2026-03-21"}, "yesterday": {"d": "2026-03-27"}, "today": {"d": "2026-03-28"},
    "soon": {"d": "2026-03-31"}, "later": {"d": "2026-05-01"}, "none": {"d": "none"}, "never": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"from": "2026-03-21", "to": "2026-03-28"}, {"past", "yesterday", "today"}),
        ({"from": "2026-03-28"}, {"today", "soon", "later"}),
        ({"to": "2026-03-27"}, {"past", "yesterday"}),
        ({"days": {"from": 0, "to": 3}}, {"today", "soon"}),
        ({"days": {"from": 4}}, {"later"}),
    ],
)
def test_date_ranges_are_absolute_or_count_from_today(given: dict[str, Any], expected: set[str]):
    assert members(make(), {"trait": "d", "date_range": given}, users=DATES) == expected


def test_days_count_back_by_switch():
    sandbox = make(date_range_sense="back")
    assert members(sandbox, {"trait": "d", "date_range": {"days": {"from": 1, "to": 7}}}, users=DATES) == {
        "past",
        "yesterday",
    }
    sandbox.switches.set("engage.date_range_sense", "ahead")
    assert now_in(sandbox) == {"soon"}


def test_relative_days_move_on_at_midnight_of_the_application(sandbox: Sandbox):
    members(sandbox, {"trait": "d", "date_range": {"days": {"from": 0, "to": 0}}}, users=DATES)
    sandbox.now.advance(18 * HOUR - 1)
    assert now_in(sandbox) == {"today"}
    sandbox.now.advance(1 + 2 * DAY)
    assert now_in(sandbox) == {"soon"}


def test_rows_are_joined_by_and(sandbox: Sandbox):
    users: dict[str, dict[str, Value]] = {"a": {"plan": "gold", "n": 5}, "b": {"plan": "gold", "n": 70}, "c": {"n": 40}}
    rows = [{"trait": "n", "from": 30}, {"trait": "n", "mode": "exclude", "from": 60}]
    assert members(sandbox, *rows, users=users) == {"c"}
    assert members(sandbox, {"trait": "plan", "values": ["gold"]}, {"trait": "n", "to": 10}) == {"a"}


def test_members_follow_each_write(sandbox: Sandbox):
    members(sandbox, {"trait": "plan", "values": ["gold"]})
    engage = sandbox.part(Engage)
    engage.write("a", {"plan": "gold"}, source="api")
    assert (now_in(sandbox), engage.user("a").segments) == ({"a"}, ["All Users", "S"])  # type: ignore[union-attr]
    engage.write("a", {"plan": CLEAR}, source="api")
    assert now_in(sandbox) == set()
    sandbox.now.advance(91 * DAY)
    assert now_in(sandbox, "All Users") == set()


def test_members_lag_behind_the_traits_by_switch():
    sandbox = make(segment_delay=3 * HOUR)
    engage = sandbox.part(Engage)
    members(sandbox, {"trait": "plan", "values": ["gold"]})
    engage.write("a", {"plan": "gold"}, source="api")
    sandbox.now.advance(HOUR)
    engage.write("a", {"plan": "none"}, source="api")
    assert now_in(sandbox) == set()
    sandbox.now.advance(2 * HOUR)
    assert (now_in(sandbox), engage.user("a").segments) == ({"a"}, ["All Users", "S"])  # type: ignore[union-attr]
    sandbox.now.advance(HOUR)
    assert now_in(sandbox) == set()


def test_a_delay_that_is_taken_away_is_over(sandbox: Sandbox):
    sandbox.switches.set("engage.segment_delay", 3 * HOUR)
    members(sandbox, {"trait": "plan", "values": ["gold"]}, users=PLANS)
    assert now_in(sandbox) == set()
    sandbox.switches.set("engage.segment_delay", 0)
    assert now_in(sandbox) == {"a"}


def test_nobody_passes_a_row_about_a_trait_that_is_not_configured():
    sandbox = make(configured="by_hand")
    row = {"trait": "plan", "mode": "exclude", "values": ["none"]}
    assert members(sandbox, row, users=PLANS) == set()
    sandbox.part(Engage).configure("plan", "string")
    assert now_in(sandbox) == {"a", "b", "d"}
    assert members(sandbox, {"trait": "plan", "from": 1}) == set()
    assert members(sandbox, {"trait": "unheard of", "mode": "exclude", "values": ["x"]}) == set()
    assert members(sandbox, {"trait": "n", "from": 1}) == set()
    sandbox.switches.set("engage.configured", "automatic")
    assert now_in(sandbox) == {"d"}


def test_a_disabled_segment_has_no_members(sandbox: Sandbox):
    engage = sandbox.part(Engage)
    engage.define_segments([{"name": "Off", "enabled": False}, {"name": "On"}])
    engage.write("a", {}, source="api")
    assert [(segment.name, segment.size) for segment in engage.segments[1:]] == [("Off", 0), ("On", 1)]


TWO = [{"plan": "gold", "state": "expired", "amount": 30}, {"plan": "silver", "state": "active", "amount": "5"}]


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        ([{"attribute": "plan", "values": ["gold"]}, {"attribute": "state", "values": ["active"]}], True),
        ([{"attribute": "plan", "match": "exclude", "values": ["gold"]}], False),
        ([{"attribute": "plan", "match": "exclude", "values": ["bronze"]}], True),
        ([{"attribute": "amount", "from": 20}, {"attribute": "plan", "values": ["silver"]}], True),
        ([{"attribute": "amount", "from": 31}], False),
        ([{"attribute": "ends", "values": ["x"]}], False),
    ],
)
def test_collection_rows_are_judged_each_by_itself(given: list[dict[str, Any]], passes: bool):  # noqa: FBT001
    sandbox = make()
    members(sandbox, *({"collection": "subscriptions", **row} for row in given))
    sandbox.part(Engage).set_collection("a", "subscriptions", TWO)
    assert now_in(sandbox) == ({"a"} if passes else set())
    sandbox.part(Engage).set_collection("a", "subscriptions", [])
    assert now_in(sandbox) == ({"a"} if given[0].get("match") == "exclude" else set())


def test_collections_and_traits_go_together(sandbox: Sandbox):
    engage = sandbox.part(Engage)
    members(
        sandbox, {"trait": "plan", "values": ["gold"]}, {"collection": "subs", "attribute": "n", "from": 1}, users=PLANS
    )
    engage.set_collection("a", "subs", [{"n": 2}])
    engage.set_collection("b", "subs", [{"n": 2}])
    assert now_in(sandbox) == {"a"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "segments are a list, not dict"),
        (["x"], "segment 1: not a mapping: 'x'"),
        ([{"name": "  "}], "segment 1: `name` is missing"),
        ([{"name": "A"}, {"name": "A"}], "segment 2: there is one named 'A' already"),
        ([{"name": "All Users"}], "segment 1: there is one named 'All Users' already"),
        ([{"name": "A", "rows": []}], "segment 1: unknown rows; known are description, enabled, filters, name"),
        ([{"name": "A", "enabled": "yes"}], "segment 'A': `enabled` is true or false, not 'yes'"),
        ([{"name": "A", "filters": {}}], "segment 'A': `filters` is a list of rows, not {}"),
    ],
)
def test_segments_that_make_no_sense_are_refused(given: object, message: str):
    with pytest.raises(SegmentError) as raised:
        make().part(Engage).define_segments(given)  # type: ignore[arg-type]
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"values": ["x"]}, "give `trait` (with `mode`), or `collection` and `attribute` (with `match`)"),
        ({"trait": "t", "match": "include", "values": ["x"]}, "give `trait` (with `mode`), or"),
        ({"trait": "t", "collection": "c", "values": ["x"]}, "give `trait` (with `mode`), or"),
        ({"collection": "c", "values": ["x"]}, "give `trait` (with `mode`), or"),
        ({"trait": "t"}, "give one of `values`, `from`/`to`, `date_range`; there is none"),
        ({"trait": "t", "values": ["x"], "from": 1}, "there is values and from/to"),
        ({"trait": "t", "mode": "only", "values": ["x"]}, "`mode` is include or exclude, not 'only'"),
        ({"trait": "t", "values": []}, "`values` is a list of at least one text, number or boolean, not []"),
        ({"trait": "t", "values": "x"}, "`values` is a list of at least one text"),
        ({"trait": "t", "from": "1"}, "`from` and `to` are numbers, not '1'"),
        ({"trait": "t", "from": 5, "to": 1}, "`to` 1 is before `from` 5"),
        ({"trait": "t", "values": ["x"], "normalize": True}, "`normalize` is true or false and goes with"),
        ({"trait": "t", "date_range": {"from": "28 March"}}, "not a date, YYYY-MM-DD: '28 March'"),
        ({"trait": "t", "date_range": {}}, "`date_range` takes `from` and/or `to` as YYYY-MM-DD, or `days`"),
        ({"trait": "t", "date_range": {"days": {}}}, "days` needs `from` or `to`"),
        ({"trait": "t", "date_range": {"days": {"from": 1}, "to": "2026-01-01"}}, "`date_range` takes"),
    ],
)
def test_rows_that_make_no_sense_are_refused_with_their_place(given: dict[str, Any], message: str):
    engage = make().part(Engage)
    engage.define_segments([{"name": "Before"}])
    good = {"trait": "t", "values": ["x"]}
    with pytest.raises(SegmentError) as raised:
        engage.define_segments([{"name": "A", "filters": [good, given]}])
    assert str(raised.value).startswith("segment 'A', filter 2")
    assert message in str(raised.value)
    assert [segment.name for segment in engage.segments] == ["All Users", "Before"]


def test_rows_read_like_sentences(sandbox: Sandbox):
    engage = sandbox.part(Engage)
    rows = [
        {"trait": "plan", "values": ["gold", "silver"]},
        {"trait": "plan", "mode": "exclude", "values": [True]},
        {"trait": "n", "from": 0, "to": 3},
        {"trait": "n", "mode": "exclude", "to": 3},
        {"trait": "n", "from": 8, "normalize": True},
        {"trait": "d", "date_range": {"from": "2026-03-01"}},
        {"trait": "d", "date_range": {"days": {"from": 0, "to": 3}}},
        {"collection": "subs", "attribute": "plan", "values": ["gold"]},
    ]
    engage.define_segments([{"name": "S", "filters": rows}])
    segment = engage.segment("S")
    assert segment is not None
    assert segment.rules == [
        "plan include gold, silver", "plan exclude true", "n from 0 to 3", "n exclude to 3",
        "n from 8 of 10 (percentile)", "d from 2026-03-01", "d from 0 to 3 days", "subs.plan include gold",
    ]  # fmt: skip


def test_a_write_over_the_socket_shows_in_the_segments_of_the_next_ping():
    with serving() as server:
        server.sandbox.part(Engage).define_segments(
            [{"name": "Gold", "filters": [{"trait": "plan", "values": ["gold"]}]}]
        )
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        seen = []
        for plan in ("gold", "none"):
            address = f"/ingest/property?id={server.sandbox.app_id}&userId=a&properties[plan]={plan}"
            connection.request("POST", address)
            assert connection.getresponse().read()
            connection.request("GET", f"/ping?id={server.sandbox.app_id}", headers={"user-id": "a"})
            seen.append([segment["name"] for segment in json.loads(connection.getresponse().read())["segments"]])
        connection.close()
        assert seen == [["All Users", "Gold"], ["All Users"]]
