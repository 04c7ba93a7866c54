"""Which promotions a reader may use, against a second implementation; and what preview and explanation say of it."""

from __future__ import annotations

import random
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from target_recurly_engage import eligibility, promotions
from target_recurly_engage.explain import explain, words_of
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.preview import preview
from target_recurly_engage.preview import words_of as preview_words
from target_recurly_engage.pulse import pulse

from tests.target import lives, shop
from tests.target.test_computed import NOW, by_reader, contract, desired
from tests.target.test_config_errors import refusal

if TYPE_CHECKING:
    from pathlib import Path

Shop = tuple[list[shop.Row], ...]


def stocked(folder: Path, made: Shop) -> None:
    """Make the ledger of *folder* hold what a shop sells."""
    with closing(Ledger(folder / "ledger.duckdb", memory_limit="200MB")) as ledger:
        for table, rows in zip(("promotions", "promo_codes", "terms"), made, strict=True):
            ledger.connection.execute(f"DELETE FROM {table}")
            shop.fill(ledger, table, rows)


def asking(made: Shop) -> list[dict[str, Any]]:
    """Make a segment for each promotion, and one for its opposite."""
    return [
        {"name": f"{way}_{one['promotion_id'].lower()}", "filters": [{"promotion": one["promotion_id"], way: True}]}
        for one in made[0]
        for way in ("include", "exclude")
    ]


def people(seed: int, readers: int, made: Shop) -> list[lives.Row]:
    """Make lives with codes of a shop: shared ones, those of pools, ones in other letters, and unheard-of ones."""
    choose = random.Random(seed)  # noqa: S311 - lives, not secrets
    codes = [one["fixed_promotion_code"] for one in made[0] if one["fixed_promotion_code"]]
    codes += [one["promo_code"] for one in made[1]]
    prefixes = [one["promotion_code_prefix"] for one in made[0] if one["promotion_code_prefix"]]
    codes += [f"{prefix}LATER" for prefix in prefixes] + ["NOBODY'S", " "]
    codes += [code.lower() for code in codes[:5]] + [f" {code} " for code in codes[5:9]]
    return [
        row | {"promo_code": choose.choice([None, *codes]), "term_id": f"TM{choose.randint(1, 5)}"}
        for row in lives.lives(seed, readers, NOW)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_who_may_use_a_promotion_is_what_a_second_implementation_says(tmp_path: Path, seed: int) -> None:
    made = shop.promotions(seed, 60, NOW)
    rows = people(seed, 400, made)
    stocked(tmp_path, made)
    found = desired(tmp_path, rows, contract(traits="all,has_used_promo", segments=asking(made)), NOW)
    assert len(found) == 400
    seen: dict[str, set[bool]] = {}
    for user, subscriptions in by_reader(rows).items():
        for one in made[0]:
            may = not shop.why_not(one, made[1], NOW) and not shop.against(subscriptions, one, made, NOW)
            id_ = one["promotion_id"].lower()
            assert found[user][f"in include_{id_}"] == may, (subscriptions, one)
            assert found[user][f"in exclude_{id_}"] == (not may)
            seen.setdefault(id_, set()).add(may)
    assert sum(len(both) == 2 for both in seen.values()) > 10, "many promotions take some readers and leave some"


BASE: dict[str, Any] = {
    "subscription_status": "Active", "currently_in_grace_period": None, "trial_period_end_date": None,
    "term_type": "Payment", "term_id": "TM1", "promo_code": None, "total_charged": 5,
    "access_expiration_date": NOW + timedelta(days=9),
}  # fmt: skip
GONE: dict[str, Any] = {"subscription_status": "Expired", "access_expiration_date": NOW - timedelta(days=9)}
READERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    # reader: his subscription, and which of the promotions below he may use
    "holds": (BASE, {"renews"}),
    "holds_other": (BASE | {"term_id": "TM2"}, {"some", "renews", "shared"}),
    "lapsed": (BASE | GONE, {"some", "renews", "shared"}),
    "used": (BASE | GONE | {"promo_code": "shared!"}, {"some", "renews"}),
    "free": (BASE | GONE | {"term_type": "Registration", "total_charged": None}, {"some", "renews", "shared", "new"}),
    "taken_back": (BASE | GONE | {"subscription_status": "Deleted"}, {"some", "renews", "shared", "new"}),
    "trial": (BASE | GONE | {"total_charged": 0}, {"some", "renews", "shared"}),
}
SHOP: Shop = (
    [
        shop.promotion("some", term_dependency_type="include", term_ids=["TM1"]),
        shop.promotion("renews", term_dependency_type="include", term_ids=["TM1"], can_be_applied_on_renewal=True),
        shop.promotion("shared"),
        shop.promotion("new", new_customers_only=True),
        shop.promotion("over", end_date=NOW),
    ],
    [],
    [shop.term("TM1")],
)


def one_each() -> list[lives.Row]:
    base = lives.lives(0, 1, NOW)[0]
    return [
        base | values | {"user_id": user, "subscription_id": f"RC{i}"}
        for i, (user, (values, _)) in enumerate(READERS.items())
    ]


def able(folder: Path, **settings: Any) -> dict[str, set[str]]:  # noqa: ANN401 - settings
    """Say of each reader which promotions he may use."""
    stocked(folder, SHOP)
    found = desired(folder, one_each(), contract(traits="all,has_used_promo", segments=asking(SHOP), **settings), NOW)
    return {
        user: {one["promotion_id"] for one in SHOP[0] if values[f"in include_{one['promotion_id']}"]}
        for user, values in found.items()
    }


def test_each_condition_by_itself(tmp_path: Path) -> None:
    assert able(tmp_path) == {user: promotions for user, (_, promotions) in READERS.items()}


def test_new_customers_may_be_those_who_never_paid(tmp_path: Path) -> None:
    before, after = able(tmp_path), able(tmp_path, new_customers="never_paid")
    assert {user for user in READERS if before[user] != after[user]} == {"trial", "taken_back"}
    assert "new" in after["trial"]
    assert "new" not in after["taken_back"], "he was charged"


def test_without_terms_in_the_ledger_none_stands_in_the_way_unless_the_promotion_lists_its_own(
    tmp_path: Path,
) -> None:
    stocked(tmp_path, (SHOP[0], [], []))
    found = desired(tmp_path, one_each(), contract(traits="all,has_used_promo", segments=asking(SHOP)), NOW)
    assert (found["holds"]["in include_shared"], found["holds"]["in include_some"]) == (True, False)


def test_a_promotion_that_is_not_known_is_warned_of_and_never_guessed_at(tmp_path: Path) -> None:
    segments = [
        {"name": way, "filters": [{"promotion": one, way: True}]}
        for one, way in (("SHARED", "include"), ("Name of new", "exclude"))
    ]
    made = contract(traits="all,has_used_promo", segments=segments)
    stocked(tmp_path, ([], [], []))
    found = desired(tmp_path, one_each(), made, NOW)
    assert {(values["in include"], values["in exclude"]) for values in found.values()} == {(False, False)}
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="200MB")) as ledger:
        warnings = preview(ledger, made, NOW.isoformat())["warnings"]
    assert len(warnings) == 2
    assert all("no promotion came yet: let the tap send the stream promotions" in one for one in warnings)
    stocked(tmp_path, SHOP)
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="200MB")) as ledger:
        told = preview(ledger, made, NOW.isoformat())
    first, second = told["warnings"]
    assert "the promotion Name of new, which the ledger does not know; new is called that" in first
    assert "the promotion SHARED, which the ledger does not know; there is new, over, renews, shared, some" in second
    assert {one["readers"] for one in told["segments"].values()} == {0}


def test_preview_explanation_and_pulse_say_what_stands_in_the_way(tmp_path: Path) -> None:
    stocked(tmp_path, SHOP)
    made = contract(traits="all,has_used_promo", segments=asking(SHOP))
    desired(tmp_path, one_each(), made, NOW)
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="200MB")) as ledger:
        counted = preview(ledger, made, NOW.isoformat())
        holds, nobody = (explain(ledger, made, NOW.isoformat(), user) for user in ("holds", "nobody"))
        assert {table for table in ledger.tables() if "elig" in table or "held" in table} == set()
    promotions_ = counted["promotions"]
    assert {one: promotions_[one]["readers"] for one in promotions_} == {
        one["promotion_id"]: sum(one["promotion_id"] in may for _, may in READERS.values()) for one in SHOP[0]
    }
    assert promotions_["new"]["against"] == {
        "used it already": 0, "it is for new customers": 5, "no term that it is for is open to him": 1,
    }  # fmt: skip
    assert promotions_["over"]["why_not"] == "expired"
    assert "promotion shared (Name of shared): 5 readers may use it" in "\n".join(preview_words(counted))
    assert holds["promotions"]["new"] == {
        "name": "Name of new", "may": False,
        "why_not": ["it is for new customers", "no term that it is for is open to him"],
    }  # fmt: skip
    assert holds["promotions"]["renews"]["may"] is True
    assert nobody["promotions"]["new"] == {"name": "Name of new", "may": True, "why_not": []}
    assert nobody["promotions"]["over"] == {"name": "Name of over", "may": False, "why_not": ["expired"]}
    words = "\n".join(words_of(holds, None))
    assert "may use renews (Name of renews)" in words
    assert "may not use over (Name of over): expired" in words
    rows = pulse(made)["include_new"]
    assert rows["row"] == {"trait": "segment_include_new", "way": "Include", "values": "true"}
    assert any("for which Pulse has no row" in one for one in rows["warnings"])


def asked(*filters: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "s", "filters": list(filters)}]


@pytest.mark.parametrize(
    ("segments", "told"),
    [
        (asked({"promotion": ""}), "segments[0].filters[0].promotion: '' is no promotion's id, such as PRSPRING0050."),
        (asked({"promotion": ["PR1"]}), "segments[0].filters[0].promotion: ['PR1'] is no promotion's id, such as"),
        (
            asked({"promotion": "PR1", "include": {"one_of": [True]}}),
            "segments[0].filters[0]: a filter on a promotion takes include: true or exclude: true.",
        ),
        (asked({"promotion": "PR1", "segment": "x"}), "segments[0].filters[0]: takes one of trait, segment, promotion"),
        (asked({"promotions": "PR1"}), "2 settings cannot be used. (1) segments[0].filters[0].promotions: no member"),
        (
            asked({"promotion": "PR1"}, {"promotion": "PR1", "exclude": True}),
            "segments[0]: nobody may use PR1 and may not use it; leave one of the two out.",
        ),
    ],
)
def test_a_mistake_is_told_at_start_up(segments: list[dict[str, Any]], told: str) -> None:
    assert refusal(segments=segments).startswith(told)


# Broken doubles


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("SOLD", "true"),
        ("BEGAN", "true"),
        ("HELD", "true"),
        ("_all_live", lambda _terms: "false"),
        ("_open", lambda one, **_: one.terms),
    ],
)
def test_a_wrong_condition_is_found_out(
    place: str,
    wrong: Any,  # noqa: ANN401 - SQL, or a function
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place in {"SOLD", "BEGAN"}:
        right = eligibility.CUSTOMERS["never_had"]
        monkeypatch.setitem(eligibility.CUSTOMERS, "never_had", right.replace(getattr(eligibility, place), wrong))
    else:
        monkeypatch.setattr(eligibility, place, wrong)
    with pytest.raises(AssertionError):
        test_who_may_use_a_promotion_is_what_a_second_implementation_says(tmp_path, 0)


def test_codes_that_are_compared_letter_by_letter_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotions, "_SPELLED", "{}")
    with pytest.raises(AssertionError):
        test_who_may_use_a_promotion_is_what_a_second_implementation_says(tmp_path, 0)
