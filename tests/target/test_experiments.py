"""Experiments: arms within binomial bounds, independent of each other, the same on another machine and for ever."""

from __future__ import annotations

from itertools import permutations, product
from math import sqrt
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_actions.arms import arm_of
from target_recurly_engage import experiments
from target_recurly_engage.predicates import share

from tests.target import lives
from tests.target.test_computed import NOW, contract, desired

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.target.conftest import Engage

KNOWN = [
    # what is hashed, its first 32 bits (by sha256sum), and the number they make
    ("experiment:spring:", "u1", "e2557a4f", 0.884116787230596),
    ("experiment:spring:", "u2", "09532a2a", 0.0364252426661551),
    ("experiment:spring:", "u3", "a974f46e", 0.661940838675946),
    ("experiment:spring:", "u4", "858a83ed", 0.5216448262799531),
    ("experiment:spring:", "Ünïcødé:1", "434554f6", 0.26277667051181197),
    ("experiment:spring:", "PNI1ywzcyhx7dcx", "ecd98933", 0.9251943349372596),
    ("experiment:spring:2027", "u1", "430ae7aa", 0.26188514614477754),
    ("experiment:price:", "u1", "58693e65", 0.3453558918554336),
    ("holdback:win_back", "u1", "df60695a", 0.8725648731924593),
    ("holdback:win_back", "u7", "7652b1b7", 0.46219931333325803),
]
SPRING = {"name": "spring", "arms": {"control": 0.2, "S10": 0.3, "S50": 0.3}}
OF_READERS = {"u1": None, "u2": "control", "u3": "S50", "u4": "S50", "Ünïcødé:1": "S10", "PNI1ywzcyhx7dcx": None}
SEVERAL = [SPRING, *({"name": name, "arms": {"a": 0.5, "b": 0.5}} for name in ("price", "colour", "spring2", "s"))]


def readers(users: Sequence[str]) -> list[lives.Row]:
    base = lives.lives(0, 1, NOW)[0]
    return [base | {"user_id": user, "subscription_id": f"S{user}"} for user in users]


def arms(folder: Path, users: Sequence[str], given: Sequence[dict[str, Any]]) -> dict[str, dict[str, str | None]]:
    found = desired(folder, readers(users), contract(experiments=given), NOW)
    return {user: {one["name"]: values[f"experiment {one['name']}"] for one in given} for user, values in found.items()}


def test_the_hash_gives_known_answers() -> None:
    with duckdb.connect() as connection:
        for salt, user, bits, expected in KNOWN:
            ((found,),) = connection.execute(f"SELECT {share(salt)} FROM (SELECT ? AS user_id)", [user]).fetchall()
            assert found == expected == int(bits, 16) / 2**32, (salt, user)


def test_readers_have_the_same_arms_on_every_machine_and_in_whatever_company(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert {user: one["spring"] for user, one in arms(tmp_path, list(OF_READERS), [SPRING]).items()} == OF_READERS
    company = [*(f"more{i}" for i in range(300)), *reversed(OF_READERS)]
    elsewhere = arms(tmp_path / "other", company, [*SEVERAL[1:], SPRING])
    assert {user: elsewhere[user]["spring"] for user in OF_READERS} == OF_READERS


def test_arms_do_not_depend_on_the_order_in_the_settings(tmp_path: Path) -> None:
    users, found = [f"u{i}" for i in range(200)], []
    for i, names in enumerate(permutations(SPRING["arms"])):
        (tmp_path / str(i)).mkdir()
        turned = SPRING | {"arms": {arm: SPRING["arms"][arm] for arm in names}}
        found.append(arms(tmp_path / str(i), users, [turned]))
        assert arm_of(contract(experiments=[turned]), "spring", "u2") == "control"
    assert all(one == found[0] for one in found)


def test_only_users_for_whom_the_segment_is_delivered_have_an_arm(tmp_path: Path) -> None:
    segments: list[dict[str, Any]] = [
        {"name": "first", "priority": 1, "exclusive": "offers", "filters": [{"trait": "tenure", **HALF}]},
        {
            "name": "second", "priority": 2, "exclusive": "offers", "holdback": 0.3,
            "filters": [{"trait": "subscription_count", "include": {"at_least": 1}}],
        },
    ]  # fmt: skip
    rows = lives.lives(4, 600, NOW)
    given = [{"name": "e", "segment": "second", "arms": {"a": 0.5, "b": 0.5}}]
    found = desired(tmp_path, rows, contract(segments=segments, experiments=given), NOW)
    states = {(one["in second"], one["told second"], one["experiment e"] is not None) for one in found.values()}
    assert states == {(True, True, True), (True, False, False)}
    outranked = sum(one["in first"] for one in found.values())
    assert 0 < outranked < len(found) - sum(one["told second"] for one in found.values()), "some are held back"


HALF = {"include": {"at_least": 100}}


def test_after_a_lost_ledger_every_reader_is_told_the_arm_he_had(engage: Engage) -> None:
    config = {"traits": "term_id", "experiments": SEVERAL}
    rows = [engage.subscription(number, user=f"u{number}") for number in range(1, 60)]
    assert engage.run(engage.snapshot(rows), **config).code == 0
    engage.ledger.unlink()
    assert engage.run(engage.snapshot(rows[::-1]), **config).code == 0
    assert engage.sent(0) == engage.sent(1)
    assert {engage.sent()[f"u{number}"]["experiment_spring"] for number in range(1, 60)} == {
        "control", "S10", "S50", "none",
    }  # fmt: skip


def independent(drawn: dict[str, dict[str, str | None]], given: Sequence[dict[str, Any]]) -> None:
    """Each arm, and each two arms of two experiments, have their share of readers, within five standard deviations."""
    shares = {
        one["name"]: one["arms"] | ({None: 1 - sum(one["arms"].values())} if sum(one["arms"].values()) < 1 else {})
        for one in given
    }
    for one, other in product(shares, shares):
        for (arm, of), (others, of_other) in product(shares[one].items(), shares[other].items()):
            expected = of * of_other if one != other else of if arm == others else 0
            count = sum(values[one] == arm and values[other] == others for values in drawn.values())
            spread = 5 * sqrt(len(drawn) * expected * (1 - expected))
            assert abs(count - len(drawn) * expected) <= spread, (one, arm, other, others, count)


def test_shares_are_within_binomial_bounds_and_no_two_experiments_know_of_each_other(tmp_path: Path) -> None:
    independent(arms(tmp_path, [f"reader-{i}" for i in range(20_000)], SEVERAL), SEVERAL)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _salt: share("one for all"),
        lambda salt: f"(({share(salt)} + {share(salt)}) / 2 * 0.9)",
        lambda salt: f"CASE WHEN user_id < 'reader-2' THEN 0.1 ELSE {share(salt)} END",
    ],
    ids=["one hash for all experiments", "uneven shares", "not drawn for some"],
)
def test_arms_that_hang_together_or_are_uneven_are_found_out(
    wrong: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "share", wrong)
    with pytest.raises(AssertionError):
        independent(arms(tmp_path, [f"reader-{i}" for i in range(5000)], SEVERAL), SEVERAL)
