"""What may be sent: traits by setting, thresholds of those that drift, and values that cannot be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from piano_engage_common.stops import ConfigRefused
from target_recurly_engage.target import TargetRecurlyEngage

from tests.target.conftest import TRAITS
from tests.target.test_cli import answer, ask

if TYPE_CHECKING:
    from tests.target.conftest import Engage


def test_only_traits_on_the_list_leave(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3)), traits="term_name, auto_renew")
    assert {frozenset(row) for row in engage.sent().values()} == {frozenset({"user_id", "term_name", "auto_renew"})}
    assert engage.run(engage.snapshot(engage.subscriptions(3)), traits=["auto_renew", "term_name"]).code == 0
    assert len(engage.files) == 1


def test_a_trait_that_is_added_to_the_list_is_told_of_everybody_and_nothing_else(engage: Engage) -> None:
    records = engage.subscriptions(3, promo_code="P")
    engage.run(engage.snapshot(records), traits="auto_renew")
    run = engage.run(engage.snapshot(records), traits="auto_renew,promo_code")
    assert "3 changes" in run.log
    assert engage.summaries[-1]["traits"]["promo_code"] == {"new": 3, "changed": 0, "cleared": 0}
    assert {row["promo_code"] for row in engage.sent().values()} == {"P"}


def test_a_trait_that_leaves_the_list_is_cleared_where_it_has_a_value_and_then_forgotten(engage: Engage) -> None:
    records = [*engage.subscriptions(3, promo_code="P"), engage.subscription(4)]
    engage.run(engage.snapshot(records), traits="auto_renew,promo_code")
    run = engage.run(engage.snapshot(records), traits="auto_renew")
    assert run.code == 0, run.log
    assert {user: row["promo_code"] for user, row in engage.sent().items()} == dict.fromkeys(("u1", "u2", "u3"), "none")
    again = engage.run(engage.snapshot(records), traits="auto_renew")
    assert "0 changes" in again.log
    assert "promo_code" not in {column for (column,) in engage.query("SELECT column_name FROM (DESCRIBE delivered)")}
    engage.run(engage.snapshot(records), traits="auto_renew,promo_code")
    assert {user: row["promo_code"] for user, row in engage.sent().items()} == {
        "u1": "P", "u2": "P", "u3": "P", "u4": "none",
    }  # fmt: skip


def test_all_traits_of_the_log_and_the_usual_computed_ones_are_sent_where_nothing_is_said(engage: Engage) -> None:
    del engage.config["traits"]
    engage.run(engage.snapshot(engage.subscriptions(1)))
    assert set(engage.sent()["u1"]) == {
        "user_id", *TRAITS, "lifecycle_stage", "in_trial", "in_grace_period", "days_to_trial_end", "days_to_access_end",
        "days_since_lapse", "active_subscription_count", "has_used_promo",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("traits", "term_name,birthday"),
        ("thresholds", {"birthday": [1]}),
        ("thresholds", {"term_name": [1]}),
        ("streams", {"crm": {"role": "users"}}),
        ("streams", {"crm": {"role": "users", "traits": ["has space"]}}),
        ("streams", {"crm": {"role": "users", "traits": ["term_name"]}}),
        ("streams", {"a": {"role": "users", "traits": ["x"]}, "b": {"role": "users", "traits": ["x"]}}),
    ],
)
def test_a_contract_that_cannot_be_kept_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigRefused, match=setting):
        TargetRecurlyEngage(config={setting: value})


# Drift


def test_a_trait_that_drifts_is_told_when_it_crosses_a_threshold(engage: Engage) -> None:
    def day(days: int, **settings: object) -> str:
        return engage.run(engage.snapshot([engage.subscription(1, days_subscribed=days)]), **settings).log

    assert "1 changes" in day(88)
    assert "0 changes" in day(89)
    assert "1 changes" in day(90)
    assert engage.sent()["u1"]["days_subscribed"] == "90"
    assert "0 changes" in day(119)
    assert "1 changes" in day(366)
    assert "0 changes" in day(500)
    assert "0 changes" in day(501, thresholds={"days_subscribed": [300]}), "a step that Engage was told beyond"
    assert "1 changes" in day(502, thresholds={"days_subscribed": [502]})


def test_any_number_may_be_told_by_thresholds_only(engage: Engage) -> None:
    settings = {"thresholds": {"total_charged": [100]}}
    engage.run(engage.snapshot([engage.subscription(1, total_charged=12)]), **settings)
    assert "0 changes" in engage.run(engage.snapshot([engage.subscription(1, total_charged=99)]), **settings).log
    assert "1 changes" in engage.run(engage.snapshot([engage.subscription(1, total_charged=100)]), **settings).log


def test_a_sieve_that_forgets_the_thresholds_is_found_out(engage: Engage) -> None:
    """The broken double."""
    double = "from target_recurly_engage.traits import Wording\nWording.step = lambda self, trait, written: '0'"
    engage.run(engage.snapshot([engage.subscription(1, days_subscribed=88)]), script=double)
    run = engage.run(engage.snapshot([engage.subscription(1, days_subscribed=90)]), script=double)
    with pytest.raises(AssertionError):
        assert "1 changes" in run.log


# Invalid values


def test_a_value_that_is_too_long_counts_as_absent_and_is_listed(engage: Engage) -> None:
    records = engage.subscriptions(3)
    records[1]["term_name"] = "x" * 1001
    run = engage.run(engage.snapshot(records))
    assert (run.code, engage.sent()["u2"]["term_name"]) == (0, "none")
    assert "1 value(s) cannot be sent and count as absent: term_name: longer than 1000 characters" in run.log
    (found,) = answer(engage, "invalid")
    assert (found["user_id"], found["trait"], found["reason"]) == ("u2", "term_name", "longer than 1000 characters")
    assert "1 invalid" in ask(engage, "invalid").stdout
    assert "term_name is longer than 1000 characters" in ask(engage, "plan", "--user", "u2").stdout
    engage.run(engage.snapshot(records))
    assert len(answer(engage, "invalid")) == 1
    records[1]["term_name"] = "x" * 1000
    engage.run(engage.snapshot(records))
    assert engage.sent()["u2"]["term_name"] == "x" * 1000
    assert answer(engage, "invalid") == []


def test_the_limit_is_a_setting_and_counts_characters(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(1, term_name="ééé")), max_value_length=9)
    assert engage.sent()["u1"]["term_name"] == "ééé"
    engage.run(engage.snapshot(engage.subscriptions(1, term_name="é" * 10)), max_value_length=9)
    assert engage.sent()["u1"]["term_name"] == "none"
