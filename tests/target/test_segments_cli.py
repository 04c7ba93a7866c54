"""What `recurly-engage` says of segments, traits and readers; and what a run makes of them, day after day."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.target.test_cli import answer, ask

if TYPE_CHECKING:
    from tests.target.conftest import Engage, Record

SEGMENTS = ["cancel_pending", "cancel_pending_soon", "recent_lapse"]
SETTINGS: dict[str, Any] = {"traits": "all,computed", "segments": SEGMENTS}
TODAY, TOMORROW = "2026-03-28T06:00:00+00:00", "2026-03-29T06:00:00+00:00"


def readers(engage: Engage) -> list[Record]:
    """One who renews, one who leaves in eight days, one who leaves today, one who left."""
    return [
        engage.subscription(1),
        engage.subscription(2, auto_renew=False, access_expiration_date="2026-04-05T05:00:00+00:00"),
        engage.subscription(3, auto_renew=False, access_expiration_date="2026-03-28T22:00:00+00:00"),
        engage.subscription(4, subscription_status="Expired", access_expiration_date="2026-03-01T00:00:00+00:00"),
    ]


@pytest.fixture
def loaded(engage: Engage) -> Engage:
    engage.config |= SETTINGS
    assert engage.run(engage.snapshot(readers(engage))).code == 0
    return engage


# The passage of time


def test_time_alone_moves_readers_from_segment_to_segment(loaded: Engage) -> None:
    sent = loaded.sent()
    assert [sent[f"u{n}"]["lifecycle_stage"] for n in range(1, 5)] == [
        "active", "pending_cancel", "pending_cancel", "lapsed",
    ]  # fmt: skip
    assert loaded.run(loaded.snapshot(readers(loaded)), as_of=TOMORROW).code == 0
    sent = loaded.sent()
    assert set(sent) == {"u2", "u3"}, "of the others nothing changed"
    assert (sent["u2"]["days_to_access_end"], sent["u2"]["segment_cancel_pending_soon"]) == ("7", "true")
    assert (sent["u3"]["lifecycle_stage"], sent["u3"]["segment_recent_lapse"]) == ("lapsed", "true")
    assert (sent["u3"]["days_since_lapse"], sent["u3"]["days_to_access_end"]) == ("1", "-1")
    assert loaded.summaries[-1]["segments"]["recent_lapse"] == {
        "matches": 2, "readers": 2, "entering": 1, "leaving": 0,
    }  # fmt: skip


def test_a_counter_is_sent_where_it_crosses_a_threshold_only(engage: Engage) -> None:
    engage.config |= {"traits": "days_since_lapse"}
    lapsed = readers(engage)[3:]
    told = []
    for days in range(26, 36):
        day = datetime(2026, 3, 1, 6, tzinfo=UTC) + timedelta(days=days)
        engage.run(engage.snapshot(lapsed), as_of=day.isoformat())
        told.append(engage.sent()["u4"]["days_since_lapse"])
    assert told == ["27"] * 3 + ["30"] * 7, "access until 00:00 of the 1st ended on the day before"


def test_daily_tells_every_day(engage: Engage) -> None:
    engage.config |= {"traits": "days_since_lapse", "thresholds": {"days_since_lapse": "daily"}}
    lapsed = readers(engage)[3:]
    engage.run(engage.snapshot(lapsed))
    engage.run(engage.snapshot(lapsed), as_of=TOMORROW)
    assert [engage.sent(n)["u4"]["days_since_lapse"] for n in range(2)] == ["28", "29"]


def test_a_segment_that_is_added_costs_its_readers_one_trait_and_one_that_leaves_is_cleared(loaded: Engage) -> None:
    run = loaded.run(loaded.snapshot(readers(loaded)), segments=[*SEGMENTS, "upgrade_candidates"])
    assert loaded.summaries[-1]["traits"]["segment_upgrade_candidates"] == {"new": 0, "changed": 0, "cleared": 0}
    assert "4 changes" in run.log
    loaded.run(loaded.snapshot(readers(loaded)), segments=["recent_lapse"])
    assert {user: row["segment_cancel_pending"] for user, row in loaded.sent().items()} == {
        "u2": "false",
        "u3": "false",
    }


# Names


def test_engage_knows_the_traits_by_the_names_of_the_settings(engage: Engage) -> None:
    engage.config |= SETTINGS | {"trait_prefix": "piano_", "trait_names": {"term_name": "plan"}}
    engage.run(engage.snapshot([engage.subscription(1, term_name="Gold")]))
    sent = engage.sent()["u1"]
    assert (sent["piano_plan"], sent["piano_lifecycle_stage"], sent["piano_segment_cancel_pending"]) == (
        "Gold", "active", "false",
    )  # fmt: skip
    assert all(name == "user_id" or name.startswith("piano_") for name in sent), "every name begins with the prefix"
    assert "piano_term_name" not in sent
    engage.run(engage.snapshot([engage.subscription(1, term_name="Gold")]), trait_names={"term_name": "tariff"})
    sent = engage.sent()["u1"]
    assert (sent["piano_tariff"], sent["piano_plan"]) == ("Gold", "none"), "the old name is cleared"


def test_a_list_of_segments_takes_the_prefix_as_well_and_the_preview_knows_what_was_told(engage: Engage) -> None:
    engage.config |= {"traits": "term_name", "segments": "cancel_pending,recent_lapse", "segments_as": "list"}
    engage.config |= {"trait_prefix": "piano_", "experiments": [{"name": "e", "arms": {"a": 0.5, "b": 0.5}}]}
    assert engage.run(engage.snapshot(readers(engage))).code == 0
    sent = engage.sent()
    assert set(sent["u1"]) == {"user_id", "piano_term_name", "piano_segments", "piano_experiment_e"}
    assert {user: row["piano_segments"] for user, row in sent.items()} == {
        "u1": "none", "u2": "cancel_pending", "u3": "cancel_pending", "u4": "recent_lapse",
    }  # fmt: skip
    found = answer(engage, "segments", "preview")["segments"]["cancel_pending"]
    assert (found["readers"], found["entering"], found["leaving"]) == (2, 0, 0)


def test_a_name_that_others_write_is_warned_of(engage: Engage) -> None:
    run = engage.run(engage.snapshot(engage.subscriptions(1)), trait_names={"subscription_status": "status"})
    assert any("status: Engage's connector for Recurly writes a trait of this name" in line for line in run.warnings)


# Words


def test_a_status_word_that_is_not_in_the_map_is_told_once_and_counted(engage: Engage) -> None:
    engage.config |= SETTINGS
    odd = [engage.subscription(n, subscription_status="Paused") for n in (1, 2)]
    run = engage.run(engage.snapshot([*odd, engage.subscription(3)]))
    assert len([line for line in run.warnings if "paused (2)" in line]) == 1
    assert engage.summaries[-1]["unknown_status_words"] == {"paused": 2}
    assert {user: row["lifecycle_stage"] for user, row in engage.sent().items()} == {
        "u1": "unknown", "u2": "unknown", "u3": "active",
    }  # fmt: skip


# Asking


def test_the_preview_counts_before_anything_is_sent(loaded: Engage) -> None:
    before = loaded.dump()
    found = answer(loaded, "segments", "preview", as_of=TOMORROW)
    assert loaded.dump() == before
    soon = found["segments"]["cancel_pending_soon"]
    assert (found["readers"], soon["readers"], soon["entering"], soon["leaving"]) == (4, 1, 1, 1)
    assert soon["sample"] == ["u2"]
    assert soon["overlaps"] == {"cancel_pending": 1}
    words = ask(loaded, "segments", "preview", as_of=TOMORROW).stdout
    assert "cancel_pending_soon: 1 readers, 25.0 %; 1 enter, 1 leave" in words


def test_the_preview_warns_of_a_value_that_nobody_has(loaded: Engage) -> None:
    segment = {"name": "x", "filters": [{"trait": "term_type", "include": {"one_of": ["payment", "Gift"]}}]}
    found = answer(loaded, "segments", "preview", segments=[segment])
    assert found["warnings"] == [
        (
            "segments[0].filters[0]: no reader has term_type 'payment'; there is 'Payment', and Engage tells small "
            "from capital letters"
        ),
        "segments[0].filters[0]: no reader has term_type 'Gift'",
    ]


def test_a_run_warns_of_a_value_that_nobody_has_before_it_sends(engage: Engage) -> None:
    segment = {"name": "x", "filters": [{"trait": "term_type", "include": {"one_of": ["payment"]}}]}
    run = engage.run(engage.snapshot(readers(engage)), segments=[segment])
    (warning,) = (line for line in run.warnings if "no reader has term_type 'payment'; there is 'Payment'" in line)
    assert run.log.index(warning) < run.log.index("written ")
    assert len(engage.summaries[-1]["unseen_values"]) == 1


def test_pulse_gets_one_row_a_segment_and_warnings_where_engage_would_take_more(loaded: Engage) -> None:
    segments = [
        {"name": "soon", "filters": [{"trait": "days_to_access_end", "include": {"at_most": 3}}]},
        {"name": "odd", "holdback": 0.1, "filters": [{"trait": "days_since_lapse", "include": {"between": [10, 20]}}]},
        {"name": "both", "filters": [{"any_of": [{"segment": "soon"}, {"segment": "odd"}]}]},
        {"name": "old", "filters": [{"trait": "tenure", "include": {"at_least": 365}}]},
    ]
    found = answer(loaded, "segments", "pulse", segments=segments)
    assert found["soon"]["row"] == {"trait": "segment_soon", "way": "Include", "values": "true"}
    assert found["soon"]["rows"] == [{"trait": "days_to_access_end", "way": "Include", "values": "up to 3"}]
    warned = {name: " | ".join(one["warnings"]) for name, one in found.items()}
    assert "a reader without one is told -1, which the row would take at Engage" in warned["soon"]
    assert "add 10 and 21 to its thresholds" in warned["odd"]
    assert "10 % that are held back" in warned["odd"]
    assert "any_of needs a segment for each choice" in warned["both"]
    assert "tenure is not sent" in warned["old"]
    clean = answer(loaded, "segments", "pulse")
    assert [one["warnings"] for one in clean.values()] == [[], [], []]


def test_ready_made_segments_printed_are_the_ones_that_are_built_in(loaded: Engage) -> None:
    printed = yaml.safe_load(ask(loaded, "segments", "ready").stdout)
    mine = [one | {"name": f"my_{one['name']}"} for one in printed]
    found = answer(loaded, "segments", "preview", segments=["all", *mine])["segments"]
    assert len(mine) == 11
    for one in printed:
        assert found[one["name"]]["readers"] == found[f"my_{one['name']}"]["readers"]


def test_the_manifest_lists_what_is_sent_and_what_is_left_to_do(loaded: Engage) -> None:
    table = ask(loaded, "traits", "--format", "csv", segments=[*SEGMENTS, "win_back"]).stdout
    rows = {row["trait"]: row for row in csv.DictReader(io.StringIO(table))}
    assert rows["lifecycle_stage"]["values"] == "pending_cancel (2), active (1), lapsed (1)"
    assert (rows["total_charged"]["type"], rows["total_charged"]["display"]) == ("number", "slider")
    assert "send it once" in rows["segment_win_back"]["to_do"]
    assert "send it once" not in rows["segment_recent_lapse"]["to_do"]
    assert "| lifecycle_stage | string | multi-select |" in ask(loaded, "traits", "--format", "markdown").stdout
    assert "to do: Settings > User Traits" in ask(loaded, "traits").stdout


def test_explain_names_rows_rule_values_and_what_was_sent(loaded: Engage) -> None:
    later = loaded.subscription(9, user="u1", access_expiration_date="2026-04-02T00:00:00+00:00")
    loaded.run(loaded.messages([later]))
    found = answer(loaded, "explain", "--user", "u1", as_of=TOMORROW)
    assert [one["row"]["subscription_id"] for one in found["subscriptions"]] == ["RC000001", "RC000009"]
    assert found["decided_by"] == "latest_access_end"
    assert found["sent"]["channel"] == "file"
    assert found["sent"]["run_id"] == loaded.summaries[-1]["run_id"]
    assert (found["traits"]["active_subscription_count"]["told"], found["rejected"]) == ("2", None)
    words = ask(loaded, "explain", "--user", "u3", "--trait", "lifecycle_stage", as_of=TOMORROW).stdout
    assert "lifecycle_stage: pending_cancel → lapsed" in words
    assert "made of: stage" in words
    assert "knows no such reader" in ask(loaded, "explain", "--user", "nobody").stdout
    wrong = ask(loaded, "explain", "--user", "u3", "--trait", "lifecycle_stagee")
    assert wrong.returncode == 2
    assert "did you mean lifecycle_stage" in wrong.stderr


def test_a_reader_who_has_vanished_is_explained_by_what_engage_was_told(loaded: Engage) -> None:
    loaded.run(loaded.snapshot(readers(loaded)[:3]), brake_min_rows_fraction=0, brake_max_clear_fraction=1)
    found = answer(loaded, "explain", "--user", "u4")
    assert found["subscriptions"] == []
    assert found["traits"]["lifecycle_stage"]["told"] == "none"


# Streams of other taps


def test_a_segment_may_ask_of_other_streams_and_finds_readers_without_a_subscription(engage: Engage) -> None:
    segment = {
        "name": "loud",
        "filters": [
            {"trait": "visits", "include": {"at_least": 10}},
            {"trait": "lifecycle_stage", "exclude": {"one_of": ["lapsed"]}},
        ],
    }
    traits = ["tier", {"name": "visits", "type": "number"}]
    streams = {"crm": {"role": "users", "traits": traits}, "subscription_log": {"role": "subscriptions"}}
    engage.config |= {"traits": "all,computed", "segments": [segment], "streams": streams}
    properties = ("user_id", "tier", "visits")
    people = [{"user_id": f"u{n}", "tier": "gold", "visits": n * 5} for n in (1, 2, 4, 9)]
    crm = engage.messages(people, stream="crm", properties=properties)
    crm[0]["key_properties"] = ["user_id"]
    run = engage.run([*engage.snapshot(readers(engage), state=None), *crm])
    assert run.code == 0, run.log
    inside = {user: row["segment_loud"] for user, row in engage.sent().items()}
    assert inside == {"u1": "false", "u2": "true", "u3": "false", "u4": "false", "u9": "true"}
    assert engage.sent()["u9"]["lifecycle_stage"] == "none", "in a file every cell says something"
    found = answer(engage, "explain", "--user", "u9")
    assert found["segments"]["loud"] == {"matches": True, "told": True, "held_back_or_outranked": False}
