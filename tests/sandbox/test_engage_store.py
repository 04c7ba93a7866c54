"""What Engage holds: users and traits, and counts that always equal a count from scratch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_sandbox.engage import traits as traits_module
from piano_engage_sandbox.engage.csvs import Report, rows, survey
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.engage.traits import TraitError
from piano_engage_sandbox.engage.users import WRITES_KEPT
from piano_engage_sandbox.engage.values import CLEAR, kind_of, text_of
from piano_engage_sandbox.service import App, Options, Sandbox

if TYPE_CHECKING:
    from piano_engage_sandbox.engage.values import Value

DAY = 86_400
BEGINS = "2026-03-28T06:00"


def make(**switches: object) -> Engage:
    engage_switches = {f"engage.{name}": value for name, value in switches.items()}
    return Sandbox(Options(apps=(App(),), begins=BEGINS, running=False, switches=engage_switches)).part(Engage)


@pytest.fixture
def engage() -> Engage:
    return make()


def recount(engage: Engage) -> dict[str, tuple[int, Counter[str], Counter[str]]]:
    """Count users, kinds and texts of each trait by looking at all users."""
    counted: dict[str, tuple[int, Counter[str], Counter[str]]] = {}
    for user in engage.each_user():
        for name, value in user.traits.items():
            users, kinds, texts = counted.get(name, (0, Counter(), Counter()))
            kinds[kind_of(value)] += 1
            texts[text_of(value)] += 1
            counted[name] = users + 1, kinds, texts
    return counted


def wrong_counts(engage: Engage) -> list[str]:
    """Name the traits whose counts differ from a recount; empty if all is well."""
    counted = recount(engage)
    wrong = []
    for name, trait in engage.traits.items():
        users, kinds, texts = counted.get(name, (0, Counter(), Counter()))
        exact = all(texts[text] == count for text, count in trait.values.items())
        others = sum(count for text, count in texts.items() if text not in trait.values)
        if (trait.users, trait.kinds, trait.others, exact) != (users, kinds, others, True):
            wrong.append(name)
        if not trait.full and trait.values != texts:
            wrong.append(name)
    return wrong + [name for name in counted if name not in engage.traits]


def test_a_write_is_visible_at_once(engage: Engage):
    engage.write("reader-1", {"plan": "gold", "visits": 3, "trial": False, "ends": None}, source="api")
    user = engage.user("reader-1")
    assert user is not None
    assert user.traits == {"plan": "gold", "visits": 3, "trial": False, "ends": None}
    assert (user.source, user.created, user.last_written) == ("api", user.active, user.active)
    assert engage.users == 1


def test_traits_not_written_stay(engage: Engage):
    engage.write("reader-1", {"plan": "gold", "visits": 3}, source="api")
    engage.write("reader-1", {"plan": "silver"}, source="csv")
    user = engage.user("reader-1")
    assert user is not None
    assert user.traits == {"plan": "silver", "visits": 3}
    assert {name: write.source for name, write in user.written.items()} == {"plan": "csv", "visits": "api"}


def test_what_a_value_looks_like_is_told_from_its_text():
    kinds = {
        5: "number", -1.5: "number", "5": "number", "-0.25": "number", "1e3": "number", "007": "string",
        "1 month": "string", "": "string", "true": "boolean", "TRUE": "string", "2026-03-28": "date",
        "2026-02-30": "string", "2026-3-28": "string", "2026-03-28 06:00:00 +0100": "string", None: "null",
    }  # fmt: skip
    assert {value: kind_of(value) for value in kinds} == kinds
    assert kind_of(True) == "boolean"  # noqa: FBT003 - the value itself


def test_values_stay_as_they_came(engage: Engage):
    engage.write("a", {"n": 5}, source="api")
    engage.write("b", {"n": "5"}, source="csv")
    assert [user.traits["n"] for user in engage.each_user()] == [5, "5"]
    trait = engage.traits["n"]
    assert (trait.users, trait.kinds, trait.values) == (2, {"number": 2}, {"5": 2})


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), ("1", 1), (None, "null")])
def test_another_type_is_a_change(before: Any, after: Any):  # noqa: ANN401
    engage = make()
    engage.write("a", {"x": before}, source="api")
    engage.write("a", {"x": after}, source="api")
    assert (engage.changes.changed, engage.changes.unchanged) == (2, 0)
    assert wrong_counts(engage) == []


def test_changed_and_unchanged_values_are_told_apart(engage: Engage):
    engage.write("a", {"x": 1, "y": "b"}, source="api")
    engage.write("a", {"x": 1, "y": "c", "z": None}, source="csv")
    changes = engage.changes
    assert (changes.writes, changes.created, changes.changed, changes.unchanged) == (2, 1, 4, 1)


def test_a_cleared_trait_is_gone_for_that_user_only(engage: Engage):
    for user_id in ("a", "b"):
        engage.write(user_id, {"plan": "gold"}, source="api")
    engage.write("a", {"plan": CLEAR, "never": CLEAR}, source="api")
    user = engage.user("a")
    assert user is not None
    assert user.traits == {}
    assert (engage.traits["plan"].users, list(engage.traits), engage.changes.cleared) == (1, ["plan"], 1)


def test_the_last_writes_of_a_user_are_kept_in_their_order(engage: Engage):
    for n in range(WRITES_KEPT + 5):
        engage.write("a", {"n": n, f"only{n % 2}": "x"}, source="api")
    user = engage.user("a")
    assert user is not None
    assert [write.properties["n"] for write in user.writes] == list(range(5, WRITES_KEPT + 5))


def test_many_different_values_are_counted_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(traits_module, "COUNTED_VALUES", 3)
    engage = make()
    for n in range(5):
        engage.write(f"u{n}", {"id": f"v{n}"}, source="api")
    trait = engage.traits["id"]
    assert (trait.users, dict(trait.values), trait.others, trait.full) == (5, {"v0": 1, "v1": 1, "v2": 1}, 2, True)
    engage.write("u0", {"id": "v4"}, source="api")
    engage.write("u4", {"id": "v1"}, source="api")
    assert (dict(trait.values), trait.others) == ({"v1": 2, "v2": 1}, 2)
    assert wrong_counts(engage) == []


def test_users_are_found_by_id_and_by_value(engage: Engage):
    for user_id, plan in (("ann", "gold"), ("anna", "silver"), ("joanna", "gold"), ("bob", "none")):
        engage.write(user_id, {"plan": plan}, source="api")
    assert engage.search("ann") == (["ann", "anna", "joanna"], 3)
    assert engage.search("nna") == (["anna", "joanna"], 2)
    assert engage.search("plan=gold") == (["ann", "joanna"], 2)
    assert engage.search("plan=") == ([], 0)
    assert engage.search("", limit=2, offset=1) == (["anna", "joanna"], 4)
    assert engage.search("ann", limit=1, offset=2) == (["joanna"], 3)
    assert [user.id for user in engage.newest(2)] == ["bob", "joanna"]


def test_users_without_activity_are_forgotten_after_ninety_days():
    sandbox = Sandbox(Options(begins=BEGINS, running=False))
    engage = sandbox.part(Engage)
    engage.write("idle", {"plan": "gold"}, source="api")
    engage.write("busy", {"plan": "gold"}, source="api")
    sandbox.now.advance(50 * DAY)
    engage.write("busy", {"plan": "gold"}, source="api")
    sandbox.now.advance(40 * DAY)
    assert engage.users == 2
    sandbox.now.advance(1)
    assert engage.search("") == (["busy"], 1)
    assert (engage.user("idle"), engage.traits["plan"].users, engage.changes.forgotten) == (None, 1, 1)
    assert [segment.size for segment in engage.segments] == [1]


def test_writes_need_not_be_activity():
    sandbox = Sandbox(Options(begins=BEGINS, running=False, switches={"engage.writes_are_activity": False}))
    engage = sandbox.part(Engage)
    engage.write("a", {"plan": "gold"}, source="api")
    sandbox.now.advance(50 * DAY)
    engage.write("a", {"plan": "gold"}, source="api")
    sandbox.now.advance(41 * DAY)
    assert engage.users == 0


def test_type_and_display_of_a_trait_are_told_from_its_values(engage: Engage):
    engage.write("a", {"n": "5", "s": "gold", "b": "true", "d": "2026-03-28", "e": None}, source="csv")
    told = {name: (trait.type, trait.display) for name, trait in engage.traits.items()}
    assert told == {
        "n": ("number", "slider"),
        "s": ("string", "multi_select"),
        "b": ("boolean", "multi_select"),
        "d": ("date", "date_range"),
        "e": (None, None),
    }


def test_type_and_display_wait_for_an_administrator_by_switch():
    engage = make(configured="by_hand")
    engage.write("a", {"n": 5}, source="api")
    trait = engage.traits["n"]
    assert (trait.configured, trait.type, trait.display) == (False, None, None)
    engage.configure("n", "number", "multi_select")
    assert (trait.configured, trait.type, trait.display) == (True, "number", "multi_select")
    engage.configure("n", "number")
    assert trait.display == "slider"


@pytest.mark.parametrize(
    ("type_", "display", "message"),
    [
        ("text", None, "trait 'n': no type 'text'; there are number, string, boolean, date"),
        ("date", "slider", "trait 'n': a date has no display 'slider'; it has date_range"),
    ],
)
def test_types_and_displays_that_do_not_exist_are_refused(type_: str, display: str | None, message: str):
    engage = make()
    with pytest.raises(TraitError) as raised:
        engage.configure("n", type_, display)
    assert str(raised.value) == message
    assert engage.traits == {}


def test_a_reset_forgets_what_was_written_and_keeps_what_was_set_up(engage: Engage):
    engage.write("a", {"n": 5, "m": 1}, source="api")
    engage.configure("n", "number", "multi_select")
    engage.define_segments([{"name": "Five", "filters": [{"trait": "n", "values": [5]}]}])
    engage.reset()
    assert (engage.users, engage.files, engage.changes.writes) == (0, [], 0)
    assert {name: (trait.users, trait.display) for name, trait in engage.traits.items()} == {"n": (0, "multi_select")}
    assert [(segment.name, segment.size) for segment in engage.segments] == [("All Users", 0), ("Five", 0)]
    engage.write("a", {"n": 5}, source="api")
    assert [segment.size for segment in engage.segments] == [1, 1]


def test_the_status_is_json(engage: Engage):
    import json  # noqa: PLC0415

    engage.write("a", {"n": 5}, source="api")
    engage.define_segments([{"name": "Five", "filters": [{"trait": "n", "values": [5]}]}])
    status = json.loads(json.dumps(engage.status()))
    assert (status["users"], status["changes"]["writes"]) == (1, 1)
    assert status["traits"] == {"n": {"users": 1, "type": "number", "display": "slider"}}
    assert [(segment["name"], segment["size"]) for segment in status["segments"]] == [("All Users", 1), ("Five", 1)]


# Counts against a recount --------------------------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, 1.0, 2.5, "", "0", "1", "true", "2026-03-28", "gold", "null", CLEAR]
)
API = st.tuples(st.just("api"), st.sampled_from("abcd"), st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3))
CELLS = st.sampled_from(["", "1", "gold", " gold", "true", "2026-03-28"])
CSV = st.tuples(st.just("csv"), st.lists(st.tuples(st.sampled_from("abcd "), CELLS, CELLS), max_size=4))
WAIT = st.tuples(st.just("wait"), st.integers(0, 60))
SEGMENTS: list[dict[str, Any]] = [
    {"name": "gold", "filters": [{"trait": "x", "values": ["gold"]}]},
    {"name": "low", "filters": [{"trait": "y", "from": 0, "to": 1}, {"trait": "x", "mode": "exclude", "values": [1]}]},
    {"name": "high", "filters": [{"trait": "y", "from": 5, "to": 10, "normalize": True}]},
    {"name": "soon", "filters": [{"trait": "z", "date_range": {"days": {"from": 0, "to": 30}}}]},
]  # fmt: skip


def load(engage: Engage, lines: list[tuple[str, str, str]]) -> None:
    """Write a file's rows as the intake does."""
    import io  # noqa: PLC0415

    text = "user_id,x,y\n" + "".join(f"{','.join(line)}\n" for line in lines)
    report = Report()
    plan = survey(lambda: io.BytesIO(text.encode()), engage._switches, report)
    for user_id, properties in rows(lambda: io.BytesIO(text.encode()), plan, engage._switches, report):
        engage.write(user_id, properties, source="csv")


def members_from_scratch(engage: Engage) -> dict[str, set[str]]:
    """Judge everybody anew, by a fresh definition of the same segments."""
    before = {segment.name: set(segment.members) for segment in engage.segments}
    engage.define_segments(SEGMENTS)
    after = {segment.name: set(segment.members) for segment in engage.segments}
    assert list(before) == list(after)
    return {name: members ^ before[name] for name, members in after.items()}


@settings(max_examples=150)
@given(
    st.lists(st.one_of(API, CSV, WAIT), max_size=12),
    st.sampled_from(["ignore", "clear", "store"]),
    st.sampled_from(["automatic", "by_hand"]),
)
def test_counts_and_members_always_equal_a_recount(steps: list[Any], empty: str, configured: str):
    sandbox = Sandbox(
        Options(begins=BEGINS, running=False, switches={"engage.csv_empty": empty, "engage.configured": configured})
    )
    engage = sandbox.part(Engage)
    engage.define_segments(SEGMENTS)
    engage.configure("x", "string")
    for kind, *what in steps:
        if kind == "api":
            engage.write(what[0], what[1], source="api")
        elif kind == "csv":
            load(engage, what[0])
        else:
            sandbox.now.advance(what[0] * DAY)
        assert wrong_counts(engage) == []
    assert not any(members_from_scratch(engage).values())


class Miscounting(Engage):
    """A broken double: it forgets to count what a value was before."""

    def _set(self, user: Any, name: str, value: Any, write: Any) -> bool:  # noqa: ANN401
        before: dict[str, Value] = dict(user.traits)
        changed = super()._set(user, name, value, write)
        if changed and name in before and value is not CLEAR:
            self.traits[name].values[text_of(before[name])] += 1
        return changed


def test_the_recount_sees_a_store_that_miscounts():
    engage = Miscounting(Sandbox(Options(begins=BEGINS, running=False)))
    engage.write("a", {"x": 1}, source="api")
    assert wrong_counts(engage) == []
    engage.write("a", {"x": 2}, source="api")
    assert wrong_counts(engage) != []
