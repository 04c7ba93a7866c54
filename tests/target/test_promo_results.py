"""Conversion by arm and by code: counts against a second implementation, intervals against published ones."""

from __future__ import annotations

import json
import random
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from target_recurly_engage import intervals, results
from target_recurly_engage.assignments import note_assignments
from target_recurly_engage.cli import main
from target_recurly_engage.contract import contract_of
from target_recurly_engage.ledger import Ledger

from tests.target import lives, shop
from tests.target.test_config_errors import refusal
from tests.target.test_plan import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from target_recurly_engage.contract import Contract

    from tests.target.conftest import Engage

NOW = datetime(2026, 5, 1, 6, tzinfo=UTC)
START = date(2026, 4, 1)
MIDNIGHT = datetime(2026, 3, 31, 22, tzinfo=UTC)  # in Amsterdam
ARMS = {"control": 0.25, "SPRING20": 0.35, "PRPOOL": 0.3}
EXPERIMENT: dict[str, Any] = {"name": "spring", "arms": ARMS, "start": "2026-04-01"}
TABLES = ("promotions", "promo_codes")
SHOP = ([shop.promotion("PRFIX", fixed_promotion_code="SPRING20"), shop.pool("PRPOOL")], [shop.code("PRPOOL", "P-1")])


def contract(**settings: object) -> Contract:
    return contract_of(CONFIG | {"timezone": "Europe/Amsterdam", "experiments": [EXPERIMENT]} | settings)


# Intervals


@pytest.mark.parametrize(
    ("successes", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_a_share_has_the_interval_that_is_published(successes: int, of: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    found = intervals.share(successes, of)
    assert found
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (successes / of, low, high)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926), ((0, 10), (0, 20), -0.1611, 0.2775), ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0), ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)  # fmt: skip
def test_a_difference_has_the_interval_that_is_published(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10."""
    first, second = intervals.share(*one), intervals.share(*other)
    assert first
    assert second
    found = intervals.difference(first, second)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.low <= found.value <= found.high


def test_of_nobody_there_is_no_share() -> None:
    assert intervals.share(0, 0) is None


# Counts


def arm_of(user: str, arms: dict[str, float] | None = None, salt: str = "") -> str | None:
    at, upto = lives.drawn(f"experiment:spring:{salt}", user), 0.0
    for arm, share in sorted((arms or ARMS).items(), key=lambda one: (one[0] != "control", one[0])):
        upto += share
        if at < upto - 1e-12:
            return arm
    return None


def history(seed: int, readers: int) -> tuple[list[lives.Row], list[shop.Row]]:
    """Make subscriptions and assignments with every boundary."""
    choose = random.Random(seed)  # noqa: S311 - lives, not secrets
    codes = [None, None, "SPRING20", "spring20 ", "P-1", "PRPOOL-9", "OTHER", "control"]
    edges = [MIDNIGHT, MIDNIGHT - timedelta(seconds=1), NOW, NOW + timedelta(seconds=1)]
    rows, assigned = [], []
    for row in lives.lives(seed, readers, NOW):
        told = lives.drawn("told", row["user_id"])
        edge = [*edges, MIDNIGHT + timedelta(days=25 * told - 5)]
        start = choose.choice([*edge, None, *(MIDNIGHT + timedelta(days=choose.randint(-9, 29)) for _ in range(6))])
        rows.append(row | {"start_date": start, "promo_code": choose.choice(codes)})
    for user in {row["user_id"] for row in rows}:
        told, arm = lives.drawn("told", user), arm_of(user)
        if arm and told < 0.9:
            first_at = MIDNIGHT + timedelta(days=25 * told - 5)
            assigned.append({"experiment": "spring", "user_id": user, "arm": arm, "first_at": first_at})
            if told < 0.05:  # the shares were others once
                assigned.append(assigned[-1] | {"arm": "PRPOOL" if arm != "PRPOOL" else "control"})
    return rows, assigned


def outcome(rows: list[lives.Row], first_at: datetime, arm: str) -> dict[str, bool]:
    """Say of one reader what came of it."""
    apart = {"deleted", "pending", "not started", "wait confirmed", "na"}
    bought = [
        row for row in rows
        if row["start_date"] and first_at < row["start_date"] <= NOW and row["start_date"] >= MIDNIGHT
        and lives.judge(row, NOW)["word"] not in apart
        and (row["term_type"] or "").lower() not in shop.FREE_TERMS
    ]  # fmt: skip
    used = {one for row in bought for one in [(row["promo_code"] or "").strip().upper()] if one}
    of_arm = {"SPRING20": {"SPRING20"}, "PRPOOL": {"P-1", "PRPOOL-9"}, "control": {"CONTROL"}}
    others = {code for other, codes in of_arm.items() if other != arm for code in codes}
    return {
        "conversions": bool(bought),
        "charged": any((row["total_charged"] or 0) > 0 for row in bought),
        "with_its_code": bool(used & of_arm[arm]),
        "with_another_code": bool(used & others),
    }


def loaded(folder: Path, rows: list[lives.Row], assigned: list[shop.Row]) -> Ledger:
    ledger = Ledger(folder / "ledger.duckdb", memory_limit="200MB")
    for table, some in (("subscriptions", rows), ("assignments", assigned), *zip(TABLES, SHOP, strict=True)):
        shop.fill(ledger, table, some)
    return ledger


def test_conversions_by_arm_are_those_of_a_second_implementation(tmp_path: Path) -> None:
    rows, assigned = history(3, 500)
    with closing(loaded(tmp_path, rows, assigned)) as ledger:
        found = results.results(ledger, contract(), NOW.isoformat())["experiments"]["spring"]
    by_user: dict[str, list[lives.Row]] = {}
    for row in rows:
        by_user.setdefault(row["user_id"], []).append(row)
    told: dict[str, list[shop.Row]] = {}
    for one in assigned:
        told.setdefault(one["user_id"], []).append(one)
    expected: dict[str, dict[str, int]] = {arm: {} for arm in ARMS}
    for user, (first, *more) in told.items():
        if more:
            continue
        came = {"readers": True} | outcome(by_user[user], first["first_at"], first["arm"])
        for what, holds in came.items():
            expected[first["arm"]][what] = expected[first["arm"]].get(what, 0) + holds
    assert {arm: {what: one[what] for what in expected[arm]} for arm, one in found["arms"].items()} == expected
    assert all(0 < one["conversions"] < one["readers"] for one in found["arms"].values())
    assert found["arms"]["control"]["with_another_code"] > 0
    assert found["moved"] == sum(len(some) > 1 for some in told.values()) > 0
    assert [(one["arm"], one["against"]) for one in found["comparisons"]] == [
        ("SPRING20", "control"), ("PRPOOL", "control"), ("SPRING20", "PRPOOL"),
    ]  # fmt: skip
    assert any("reader(s) of control bought with the code of another arm" in one for one in found["warnings"])
    assert any("were told another arm than the one drawn for them now" in one for one in found["warnings"])


def sold(arm: str, readers: int, conversions: int, at: int) -> tuple[list[lives.Row], list[shop.Row]]:
    """Make readers of an arm of whom some convert."""
    users = [user for user in (f"u{at + n}" for n in range(30 * readers)) if arm_of(user) == arm][:readers]
    base = lives.lives(0, 1, NOW)[0] | {"subscription_status": "Active", "term_type": "Payment", "promo_code": None}
    rows = [
        base | {"user_id": user, "subscription_id": f"S{user}", "start_date": MIDNIGHT + timedelta(days=9)}
        for user in users[:conversions]
    ]
    first = MIDNIGHT - timedelta(days=1)
    return rows, [{"experiment": "spring", "user_id": user, "arm": arm, "first_at": first} for user in users]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A ledger with 200 readers of control of whom 10 convert, 200 and 40, 50 and 4; and its settings."""
    made = [sold("control", 200, 10, 0), sold("SPRING20", 200, 40, 0), sold("PRPOOL", 50, 4, 0)]
    rows, assigned = ([one for half in some for one in half] for some in zip(*made, strict=True))
    loaded(tmp_path, rows, assigned).close()
    settings = {
        "ledger": str(tmp_path / "ledger.duckdb"), "experiments": [EXPERIMENT, EXPERIMENT | {"name": "empty"}],
        "as_of": NOW.isoformat(), "timezone": "Europe/Amsterdam",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


def ask(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["--config", str(folder / "config.json"), "promo", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_says_it_in_plain_sentences(told: Path) -> None:
    words = ask(told, "results")
    assert "spring: conversions since each reader was told his arm, from 2026-04-01 on" in words
    assert "control: 10 of 200 readers, 5.0 % (2.7 to 9.0)" in words
    assert "SPRING20: 40 of 200 readers, 20.0 % (15.0 to 26.1)" in words
    sentences = [line.strip() for line in words.splitlines() if " is " in line]
    assert sentences[0] == (
        "SPRING20 is 15.0 points above control (between +8.7 and +21.5): chance alone would hardly do that"
    )
    assert sentences[1].endswith("too early to say, with fewer than 30 readers or 5 conversions in PRPOOL"), sentences
    assert "empty: conversions since" in words
    assert "SPRING20 against control: nobody was told yet" in words
    only = json.loads(ask(told, "results", "--experiment", "spring", "--json"))
    assert list(only["experiments"]) == ["spring"]
    assert only["experiments"]["spring"]["comparisons"][0]["difference"]["value"] == 0.15
    wrong = CliRunner().invoke(
        main, ["--config", str(told / "config.json"), "promo", "results", "--experiment", "sprig"]
    )
    assert wrong.exit_code == 2
    assert "did you mean spring" in wrong.output


def test_without_a_control_only_codes_are_compared_and_that_is_said(told: Path) -> None:
    config = json.loads((told / "config.json").read_text())
    config["experiments"] = [{"name": "spring", "arms": {"A": 0.5, "B": 0.5}}]
    (told / "config.json").write_text(json.dumps(config))
    words = ask(told, "results")
    assert "warning: spring has no arm control" in words
    assert "A against B: nobody was told yet" in words
    assert "450 reader(s) of spring were told another arm than the one drawn for them now" in words


def test_by_code_subscriptions_are_counted_and_those_of_a_pool_together(tmp_path: Path) -> None:
    base = lives.lives(0, 1, NOW)[0] | {
        "subscription_status": "Active", "term_type": "Payment", "currently_in_grace_period": None, "total_charged": 5,
    }  # fmt: skip
    far, past = NOW + timedelta(days=9), NOW - timedelta(days=9)
    given = [
        # user, code, start, access until, charged
        ("a", "SPRING20", START, far, 5), ("a", "spring20", START, past, 0), ("b", "P-1", START, far, 5),
        ("c", "PRPOOL-77", START, past, 5), ("d", "NOBODY'S", START, far, 0), ("e", " ", START, far, 5),
        ("f", "SPRING20", date(2026, 3, 1), far, 5),
    ]  # fmt: skip
    rows = [
        base
        | {"user_id": user, "subscription_id": f"S{i}", "promo_code": code, "start_date": start,
           "access_expiration_date": end, "total_charged": charged}
        for i, (user, code, start, end, charged) in enumerate(given)
    ]  # fmt: skip
    with closing(loaded(tmp_path, rows, [{"experiment": "x", "user_id": "a", "arm": "b", "first_at": NOW}])) as ledger:
        codes = results.results(ledger, contract(), NOW.isoformat())["codes"]
        later = results.results(ledger, contract(), NOW.isoformat(), since=START)["codes"]
    names = ("code", "promotion_id", "codes", "subscriptions", "readers", "charged", "live")
    assert [tuple(one[name] for name in names) for one in codes] == [
        ("SPRING20", "PRFIX", 1, 3, 2, 2, 2), (None, "PRPOOL", 2, 2, 2, 2, 1), ("NOBODY'S", None, 1, 1, 1, 0, 1),
    ]  # fmt: skip
    assert (later[0]["subscriptions"], later[0]["still_live"]["value"]) == (2, 0.5)


@pytest.mark.parametrize("start", ["April", "2026-02-30", 7, ["2026-04-01"]])
def test_a_start_that_is_no_day_is_told_at_start_up(start: object) -> None:
    told = refusal(experiments=[EXPERIMENT | {"start": start}])
    assert told == f"experiments[0].start: {start!r} is no day; write it like '2026-04-01'."


# Assignments


def test_arms_are_noted_when_they_were_told_first_and_are_the_same_after_a_lost_ledger(engage: Engage) -> None:
    experiment = {"name": "e", "segment": "cancel_pending", "arms": {"control": 0.3, "A": 0.3, "B": 0.4}}
    engage.config |= {"traits": "all,computed", "segments": "cancel_pending", "experiments": [experiment]}
    rows = engage.subscriptions(30, auto_renew=False)
    assert engage.run(engage.snapshot(rows)).code == 0
    first = {user: row["experiment_e"] for user, row in engage.sent().items()}
    assert engage.summaries[-1]["assigned"] == 30
    back = [row | {"auto_renew": int(row["subscription_id"][-2:]) % 2 == 0} for row in rows]
    more = [engage.subscription(number, auto_renew=False) for number in range(31, 41)]
    half = {"brake_max_change_fraction": 1}  # of the users change
    engage.run(engage.snapshot([*back, *more]), as_of="2026-03-29T06:00:00+00:00", **half)
    assert engage.summaries[-1]["assigned"] == 10
    noted = engage.query("SELECT user_id, arm, first_at::VARCHAR FROM assignments WHERE experiment = 'e'")
    assert {user: arm for user, arm, _ in noted if user in first} == first, "who left the segment stays noted"
    assert {when[:10] for user, _, when in noted if user in first} == {"2026-03-28"}
    assert {when[:10] for user, _, when in noted if user not in first} == {"2026-03-29"}
    assert len(noted) == len({user for user, *_ in noted}) == 40
    engage.ledger.unlink()
    assert engage.run(engage.snapshot(rows)).code == 0
    assert {user: row["experiment_e"] for user, row in engage.sent().items()} == first


def test_the_moment_is_that_of_the_acknowledgement_and_a_crash_before_the_note_is_made_good(tmp_path: Path) -> None:
    made = contract()
    (trait,) = (one.name for one in made.audience)
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="100MB")) as ledger:
        execute = ledger.connection.execute
        assert note_assignments(ledger, made, None) == 0, "nobody was told of it yet"
        execute(f"ALTER TABLE delivered ADD COLUMN {trait} VARCHAR")
        execute(
            "INSERT INTO deliveries (delivery_id, run_id, channel, location, status, users, started_at, "
            "acknowledged_at) VALUES ('d', 'r', 'file', 'x', 'acknowledged', 3, '2026-04-01 06:00Z', "
            "'2026-04-01 07:00Z'), ('e', 'r', 'ingest', 'x', 'broken off', 3, '2026-04-02 06:00Z', NULL)"
        )
        for user, delivery, arm in (("a", "d", "control"), ("b", "e", "PRPOOL"), ("c", "d", "none"), ("x", "d", None)):
            execute(f"INSERT INTO delivered (user_id, delivery_id, {trait}) VALUES (?, ?, ?)", [user, delivery, arm])
        assert note_assignments(ledger, made, None) == 2
        assert note_assignments(ledger, made, NOW.isoformat()) == 0
        assert execute("SELECT user_id, arm, first_at::VARCHAR FROM assignments ORDER BY 1").fetchall() == [
            ("a", "control", "2026-04-01 07:00:00+00"), ("b", "PRPOOL", "2026-04-02 06:00:00+00"),
        ]  # fmt: skip
        execute(f"UPDATE delivered SET {trait} = 'SPRING20' WHERE user_id = 'a'")
        assert note_assignments(ledger, made, NOW.isoformat()) == 1, "another arm is another row"


# Broken doubles


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("start_date > first_at AND", "true AND"),
        ("start_date <= moment", "true"),
        ("SELECT told.arm, count(*), count(bought.user_id)", "SELECT told.arm, count(*), count(*)"),
        ("start_date >= timezone", "start_date > timezone"),
    ],
)
def test_a_wrong_count_is_found_out(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = results._outcomes

    def double(*args: Any) -> str:  # noqa: ANN401 - as the original
        sql = original(*args)
        assert right in sql
        return sql.replace(right, wrong)

    monkeypatch.setattr(results, "_outcomes", double)
    with pytest.raises(AssertionError):
        test_conversions_by_arm_are_those_of_a_second_implementation(tmp_path)


def test_a_reader_who_was_told_two_arms_and_counts_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = results._told
    monkeypatch.setattr(results, "_told", lambda one: original(one).replace("min(arm) = max(arm) AND", ""))
    with pytest.raises(AssertionError):
        test_conversions_by_arm_are_those_of_a_second_implementation(tmp_path)


def test_checkouts_that_were_told_at_once_are_counted_by_arm_and_tracker(told: Path) -> None:
    arm = [user for user in (f"u{n}" for n in range(6000)) if arm_of(user) == "SPRING20"][:4]
    after = MIDNIGHT + timedelta(days=3)
    times = {"C1": (arm[0], after), "C2": (arm[0], after), "C3": (arm[1], after),
             "C4": (arm[2], MIDNIGHT - timedelta(seconds=1)), "C5": ("nobody", after)}  # fmt: skip
    rows = [
        {"checkout_id": key, "user_id": user, "tracker": "T1" if key < "C3" else "T2", "told_at": at}
        for key, (user, at) in times.items()
    ]
    with closing(Ledger(told / "ledger.duckdb", memory_limit="200MB")) as ledger:
        shop.fill(ledger, "checkouts", rows)
    found = json.loads(ask(told, "results", "--json"))
    arms = found["experiments"]["spring"]["arms"]
    assert {name: one["checkouts"] for name, one in arms.items()} == {"control": 0, "SPRING20": 2, "PRPOOL": 0}
    assert found["checkouts"] == [
        {"tracker": "T2", "checkouts": 3, "readers": 3}, {"tracker": "T1", "checkouts": 2, "readers": 1},
    ]  # fmt: skip
    later = json.loads(ask(told, "results", "--from", "2026-04-01", "--json"))["checkouts"]
    assert {one["tracker"]: one["checkouts"] for one in later} == {"T1": 2, "T2": 2}
    words = ask(told, "results")
    assert "0 with its code, 2 told at once" in words
    assert "  T1: 2 of 1 readers" in words
