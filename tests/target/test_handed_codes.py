"""Codes that an experiment or a segment hands to users who may not use them: a warning with the count, everywhere."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from target_recurly_engage import handed_codes
from target_recurly_engage.desired import desire
from target_recurly_engage.handed_codes import unusable_codes
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.preview import preview

from tests.target import lives, shop
from tests.target.test_cli import answer, ask
from tests.target.test_computed import NOW, by_reader, contract, desired
from tests.target.test_eligibility import people, stocked

if TYPE_CHECKING:
    from pathlib import Path

    from target_recurly_engage.contract import Contract

    from tests.target.conftest import Engage

ANYBODY = [{"trait": "subscription_count", "include": {"at_least": 1}}]


def warnings(folder: Path, made: Contract) -> list[str]:
    with closing(Ledger(folder / "ledger.duckdb", memory_limit="200MB")) as ledger:
        desire(ledger, made, NOW.isoformat())
        return list(unusable_codes(ledger, made, NOW.isoformat()))


@pytest.mark.parametrize("seed", range(2))
def test_the_count_is_that_of_a_second_implementation(tmp_path: Path, seed: int) -> None:
    made = shop.promotions(seed, 12, NOW)
    rows, numbers = people(seed, 200, made), {}
    codes = {one["promotion_id"]: (one["fixed_promotion_code"] or one["promotion_id"]).lower() for one in made[0]}
    experiments = [
        {"name": f"e{i}", "arms": {"control": 0.3, code: 0.7}, "segment": "few"}
        for i, code in enumerate(codes.values())
    ]
    segments = [{"name": "few", "holdback": 0.5, "filters": ANYBODY}]
    settings = contract(segments=segments, experiments=experiments)
    stocked(tmp_path, made)
    found = desired(tmp_path, rows, settings, NOW)
    for i, one in enumerate(made[0]):
        handed = [user for user, values in found.items() if values[f"experiment e{i}"] not in {None, "control"}]
        refused = [
            user for user in handed
            if shop.why_not(one, made[1], NOW) or shop.against(by_reader(rows)[user], one, made, NOW)
        ]  # fmt: skip
        numbers[f"e{i}"] = (len(handed), len(refused))
    told = {line.split(":")[0].removeprefix("experiment "): line for line in warnings(tmp_path, settings)}
    assert set(told) == {name for name, (_, refused) in numbers.items() if refused}
    for name, line in told.items():
        handed, refused = numbers[name]
        assert f"to {handed:,} user(s), of which {refused:,} may not use it" in line
    assert len(told) > 0, "the shop holds no example"


SHOP = (
    [shop.promotion("NEW", new_customers_only=True, fixed_promotion_code="SPRING50"), shop.promotion("OTHER")],
    [],
    [],
)
PLAIN = {
    "subscription_status": "Expired", "term_type": "Payment", "promo_code": None, "total_charged": 5,
    "currently_in_grace_period": None,
}  # fmt: skip


def two(made: Contract, folder: Path) -> list[str]:
    """Return the warnings for a former customer and a user who only registered."""
    base = lives.lives(0, 1, NOW)[0] | PLAIN
    rows = [base | {"user_id": "a", "subscription_id": "A"}]
    rows += [base | {"user_id": "b", "subscription_id": "B", "term_type": "Registration", "total_charged": 0}]
    stocked(folder, SHOP)
    desired(folder, rows, made, NOW)
    return warnings(folder, made)


def any_of(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "s", "filters": [{"any_of": list(rows)}]}]


ALL_NEW = {"control": 0.0001, "SPRING50": 0.9999}
REFUSED = (
    "(Name of NEW) to 2 user(s), of which 1 may not use it: it is for new customers 1. "
    "Narrow it with the filter {promotion: NEW, include: true}, or hand out another code"
)
CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "all users get the code": (
        {"experiments": [{"name": "e", "arms": ALL_NEW}]},
        f"experiment e: hands SPRING50 {REFUSED}",
    ),
    "those who may use another one": (
        {"segments": any_of({"promotion": "NEW"}, {"promotion": "OTHER"})},
        f"segment s: hands NEW {REFUSED}",
    ),
    "only those who may": (
        {
            "segments": [{"name": "s", "filters": [{"promotion": "NEW", "include": True}]}],
            "experiments": [{"name": "e", "segment": "s", "arms": {"control": 0.0001, "new": 0.9999}}],
        },
        None,
    ),
    "never paid is what new means": (
        {"new_customers": "never_paid", "experiments": [{"name": "e", "arms": ALL_NEW}]},
        "experiment e: hands SPRING50 (Name of NEW) to 2 user(s), of which 1 may not use it",
    ),
    "arms that are no codes": ({"experiments": [{"name": "e", "arms": {"blue": 0.5, "green": 0.5}}]}, None),
    "a segment that leaves them out": (
        {"segments": [{"name": "s", "filters": [{"promotion": "NEW", "exclude": True}]}]}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_way_of_handing_out_a_code(tmp_path: Path, case: str) -> None:
    settings, expected = CASES[case]
    made = contract(traits="all,computed", **settings)
    found = two(made, tmp_path)
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="200MB")) as ledger:
        previewed = preview(ledger, made, NOW.isoformat())["warnings"]
    assert len(found) == (expected is not None)
    assert not expected or found[0].startswith(expected)
    assert [one for one in previewed if "may not use it" in one] == found


def test_the_run_the_plan_and_a_dry_run_say_so(engage: Engage) -> None:
    engage.config |= {"traits": "term_name", "experiments": [{"name": "e", "arms": {"control": 0.001, "NEW": 0.999}}]}
    engage.run(engage.snapshot(engage.subscriptions(3)), experiments=[])
    with closing(Ledger(engage.ledger, memory_limit="200MB")) as ledger:
        shop.fill(ledger, "promotions", SHOP[0])
    planned = answer(engage, "plan")["warnings"]
    assert "of which 3 may not use it: it is for new customers 3" in planned[0]
    assert f"warning: {planned[0]}" in ask(engage, "plan").stdout
    dry = engage.run(engage.snapshot(engage.subscriptions(3)), dry_run=True)
    assert sum(planned[0] in line for line in dry.log.splitlines()) == 2, "as a warning, and in what would be sent"
    run = engage.run(engage.snapshot(engage.subscriptions(3)))
    assert any(planned[0] in line for line in run.warnings)
    assert engage.summaries[-1]["unusable_codes"] == planned


def test_counting_those_who_may_instead_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:  # noqa: ANN401 - as the right one
        return (cell.replace("AND NOT (", "AND (") for cell in right(*args))

    right = handed_codes._counts
    monkeypatch.setattr(handed_codes, "_counts", broken)
    with pytest.raises(AssertionError):
        test_the_count_is_that_of_a_second_implementation(tmp_path, 0)
