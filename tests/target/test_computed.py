"""Computed traits, segments and experiments, compared with a second implementation over generated lives."""

from __future__ import annotations

import csv
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from piano_engage_sandbox.export import log_rows
from target_recurly_engage import experiments
from target_recurly_engage.computed import BY_NAME, FORMULAS
from target_recurly_engage.contract import contract_of
from target_recurly_engage.desired import desire
from target_recurly_engage.filters import OPERATORS
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.predicates import _COMPARISONS
from target_recurly_engage.ready import BY_NAME as READY
from target_recurly_engage.traits import Kind

from tests.e2e.test_days import life
from tests.target import lives
from tests.target.test_plan import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from target_recurly_engage.contract import Contract

NOW = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)  # the 29th in Amsterdam, whose clocks change that night
AUTUMN = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)  # and the 25th, when they change back
DAYS = 60
ALL_TRAITS = ",".join(["all", *(formula.name for formula in FORMULAS)])

Seen = dict[str, set[Any]]


def contract(**settings: object) -> Contract:
    return contract_of(CONFIG | {"timezone": "Europe/Amsterdam", "traits": ALL_TRAITS} | settings)


def fill(ledger: Ledger, folder: Path, rows: Sequence[lives.Row]) -> None:
    """Put these subscriptions, and no others, into a ledger."""
    columns, file = list(rows[0]), folder / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerows([["\\N" if row[c] is None else row[c] for c in columns] for row in rows])
    ledger.connection.execute("DELETE FROM subscriptions")
    ledger.connection.execute(f"COPY subscriptions ({', '.join(columns)}) FROM '{file}' (HEADER false, NULLSTR '\\N')")


def read(ledger: Ledger, made: Contract, now: datetime) -> dict[str, dict[str, Any]]:
    """What the target's SQL says of each reader, in all tables it makes."""
    desire(ledger, made, now.isoformat())
    found: dict[str, dict[str, Any]] = {}
    for table in ("computed", "matches", "audience"):
        if table in {"matches", "audience"} and not made.audience:
            continue
        cursor = ledger.connection.execute(f"FROM {table}")
        names = [column[0] for column in cursor.description or ()]
        for row in cursor.fetchall():
            values = dict(zip(names, row, strict=True))
            found.setdefault(values.pop("user_id"), {}).update(values)
    return found


@contextmanager
def filled(folder: Path, rows: Sequence[lives.Row]) -> Iterator[Ledger]:
    with closing(Ledger(folder / "ledger.duckdb", memory_limit="200MB")) as ledger:
        fill(ledger, folder, rows)
        yield ledger


def desired(folder: Path, rows: Sequence[lives.Row], made: Contract, now: datetime) -> dict[str, dict[str, Any]]:
    with filled(folder, rows) as ledger:
        return read(ledger, made, now)


def by_reader(rows: Sequence[lives.Row]) -> dict[str, list[lives.Row]]:
    grouped: dict[str, list[lives.Row]] = {}
    for row in rows:
        grouped.setdefault(row["user_id"], []).append(row)
    return grouped


def compare(found: dict[str, dict[str, Any]], rows: Sequence[lives.Row], moment: datetime, seen: Seen) -> None:
    """Compare every formula and every ready-made segment with the second implementation, reader by reader."""
    grouped = by_reader(rows)
    assert set(found) == set(grouped)
    for user, subscriptions in grouped.items():
        traits = lives.computed(subscriptions, moment)
        segments = lives.ready(traits)
        for name in (formula.name for formula in FORMULAS):
            assert found[user][name] == traits[name], (moment, user, name, subscriptions)
            seen.setdefault(name, set()).add(traits[name])
        for name in READY:
            assert found[user][f"in {name}"] == found[user][f"told {name}"] == segments[name], (moment, user, name)
            seen.setdefault(name, set()).add(segments[name])


def test_every_formula_segment_and_operator_has_a_second_implementation() -> None:
    (row,) = lives.lives(0, 1, NOW)[:1]
    traits = lives.computed([row], NOW)
    assert set(traits) - {"primary"} == {formula.name for formula in FORMULAS}
    assert set(lives.ready(traits)) == set(READY)
    rows = [row for seed in range(2) for row in lives.filters(seed, 150, NOW.date()) if "trait" in row]
    asked = {(row["trait"], *(row.get("include") or row["exclude"])) for row in rows}
    kinds_of = dict.fromkeys(lives.DATES, Kind.DATE) | {
        "term_id": Kind.STRING, "billing_period": Kind.STRING, "auto_renew": Kind.BOOLEAN, "total_charged": Kind.MONEY,
    }  # fmt: skip
    compared = {(operator, kinds_of.get(trait, Kind.NUMBER)) for trait, operator in asked}
    assert compared >= {(operator, kind) for operator, kinds in OPERATORS.items() for kind in kinds}


@pytest.mark.parametrize(
    ("seed", "now", "zone"),
    [
        (0, NOW, "Europe/Amsterdam"),
        (1, AUTUMN, "Europe/Amsterdam"),
        (2, NOW, "Pacific/Auckland"),
        (3, NOW, "Australia/Lord_Howe"),
    ],
)
def test_computed_traits_and_ready_made_segments_are_those_of_a_second_implementation(
    tmp_path: Path, seed: int, now: datetime, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives, "ZONE", ZoneInfo(zone))
    rows, made, seen = lives.lives(seed, 1000, now), contract(segments="all", timezone=zone), Seen()
    for moment in (now, now + timedelta(hours=1), now + timedelta(days=1), now + timedelta(days=31)):
        compare(desired(tmp_path, rows, made, moment), rows, moment, seen)
    assert all(len(values) > 1 for values in seen.values()), "the lives hold no example of something"
    assert seen["lifecycle_stage"] == {"trial", "active", "grace", "pending_cancel", "lapsed", "none", "unknown"}


def edges() -> set[int]:
    """All numbers of days at which something changes: thresholds of formulas, and bounds of ready-made segments."""
    found = {int(step) for formula in FORMULAS for step in formula.thresholds or ()}
    for segment in READY.values():
        for row in segment["filters"]:
            ((_, given),) = (row.get("include") or row["exclude"]).items()
            found |= {number for number in (given if isinstance(given, list) else [given]) if type(number) is int}
    return found


@pytest.mark.slow
def test_on_sixty_days_of_the_sandbox_with_every_boundary_day_both_say_the_same(tmp_path: Path) -> None:
    """Each day has another hour; the clocks change on one of them, and every edge is crossed in the middle."""
    began, made, seen = datetime(2026, 2, 25, 5, tzinfo=UTC), contract(segments="all"), Seen()
    on_edges = lives.on_edges(sorted(edges()), began + timedelta(days=DAYS // 2))
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="200MB")) as ledger:
        for day in range(DAYS + 1):
            moment = began + timedelta(days=day, hours=(0, 17.99, 18, 18.01, 3, 12)[day % 6])
            exported = log_rows(rows=150, seed=5, since=int(began.timestamp()), as_of=int(moment.timestamp()))
            rows = [*(row for row in map(life, exported) if row["user_id"]), *on_edges]
            fill(ledger, tmp_path, rows)
            compare(read(ledger, made, moment), rows, moment, seen)
    assert seen["lifecycle_stage"] >= {"trial", "active", "grace", "pending_cancel", "lapsed", "none"}
    for formula in FORMULAS:
        for step in formula.thresholds or ():
            assert {step - 1, step, step + 1} <= seen[formula.name], (formula.name, step)
    for name in READY:
        assert seen[name] == {True, False}, name


def test_a_day_is_one_of_the_calendar_of_the_zone(tmp_path: Path) -> None:
    row = lives.lives(0, 1, NOW)[0] | {
        "subscription_status": "Active", "currently_in_grace_period": False, "trial_period_end_date": None,
        "auto_renew": False, "access_expiration_date": datetime(2026, 3, 31, 21, 59, tzinfo=UTC),
    }  # fmt: skip
    later = row | {
        "user_id": "v",
        "subscription_id": "S2",
        "access_expiration_date": datetime(2026, 3, 31, 22, 0, 1, tzinfo=UTC),
    }
    found = desired(tmp_path, [row, later], contract(), NOW)
    assert found[row["user_id"]]["days_to_access_end"] == 2
    assert found["v"]["days_to_access_end"] == 3


# Compound traits and formulas of the user's own


TRAP = {"subscription_status": "Active", "currently_in_grace_period": None, "trial_period_end_date": None}


def trap() -> list[lives.Row]:
    """The documentation's own trap: Premium expired and Basic active, and the other way round."""
    base = lives.lives(0, 1, NOW)[0] | TRAP
    future, past = NOW + timedelta(days=9), NOW - timedelta(days=9)
    return [
        base
        | {"user_id": user, "subscription_id": f"{user}{name}", "resource_name": name, "access_expiration_date": end}
        for user, premium, basic in (("has", future, past), ("had", past, future))
        for name, end in (("Premium", premium), ("Basic", basic))
    ]


def test_a_compound_trait_asks_one_and_the_same_subscription(tmp_path: Path) -> None:
    traits = [
        {"name": "has_premium", "has_active": {"resource_name": ["Premium"]}},
        {"name": "had_premium", "has_had": {"resource_name": ["Premium"]}},
        {"name": "spent", "type": "money", "sql": "sum(total_charged) FILTER (live)"},
        {"name": "first_start", "type": "date", "sql": "min(start_day)"},
        {"name": "main", "type": "string", "sql": "any_value(resource_name) FILTER (is_primary)"},
        {"name": "age", "type": "number", "sql": "today - min(start_day)"},
    ]
    rows = [row | {"total_charged": 5, "start_date": NOW - timedelta(days=40)} for row in trap()]
    found = desired(tmp_path, rows, contract(traits=traits), NOW)
    assert {user: values["has_premium"] for user, values in found.items()} == {"has": True, "had": False}
    assert {user: values["had_premium"] for user, values in found.items()} == {"has": True, "had": True}
    assert {user: values["main"] for user, values in found.items()} == {"has": "Premium", "had": "Basic"}
    assert {values["spent"] for values in found.values()} == {Decimal(5)}
    assert {values["first_start"] for values in found.values()} == {date(2026, 2, 17)}
    assert {values["age"] for values in found.values()} == {40}


# The rule of the primary subscription


def primary_of(folder: Path, rows: Sequence[lives.Row], **settings: object) -> dict[str, Any]:
    traits = [{"name": "main", "type": "string", "sql": "any_value(resource_name) FILTER (is_primary)"}]
    found = desired(folder, rows, contract(traits=traits, **settings), NOW)
    return {user: values["main"] for user, values in found.items()}


def test_the_primary_subscription_follows_the_rule_in_the_settings(tmp_path: Path) -> None:
    assert primary_of(tmp_path, trap()) == {"has": "Premium", "had": "Basic"}
    assert primary_of(tmp_path, trap(), primary=[{"resource_name": ["basic"]}]) == {"has": "Basic", "had": "Basic"}
    assert primary_of(tmp_path, trap(), primary=["live", {"resource_name": ["Basic"]}]) == {
        "has": "Premium", "had": "Basic",
    }  # fmt: skip
    assert primary_of(tmp_path, trap(), leave_out={"resource_name": ["premium"]}) == {"has": "Basic", "had": "Basic"}


def test_site_licences_count_unless_they_are_out(tmp_path: Path) -> None:
    rows = [row | ({"term_type": "IP Range Contract"} if row["resource_name"] == "Premium" else {}) for row in trap()]
    assert primary_of(tmp_path, rows) == {"has": "Premium", "had": "Basic"}
    assert primary_of(tmp_path, rows, site_licences="out") == {"has": "Basic", "had": "Basic"}
    alone = [row for row in rows if row["user_id"] == "has" and row["resource_name"] == "Premium"]
    assert primary_of(tmp_path, alone, site_licences="out") == {}


# Hold-back, priority, experiments


def test_of_an_exclusive_set_a_reader_is_in_one_segment_and_the_held_back_in_none(tmp_path: Path) -> None:
    rows = lives.lives(7, 1500, NOW)
    segments = [
        {"name": "cancel_pending", "priority": 2, "exclusive": "offers"},
        {"name": "cancel_pending_soon", "priority": 1, "exclusive": "offers", "holdback": 0.25},
        {"name": "win_back", "priority": 3, "exclusive": "offers"},
    ]
    found = desired(tmp_path, rows, contract(segments=segments), NOW)
    held = 0
    for user, values in found.items():
        soon, pending = values["in cancel_pending_soon"], values["in cancel_pending"]
        back = lives.drawn("holdback:cancel_pending_soon", user) < 0.25
        assert values["told cancel_pending_soon"] == (soon and not back)
        assert values["told cancel_pending"] == (pending and not soon)
        held += soon and back
    assert held > 0


def test_segments_make_one_trait_with_a_list_where_that_is_set(tmp_path: Path) -> None:
    found = desired(tmp_path, lives.lives(1, 300, NOW), contract(segments="all", segments_as="list"), NOW)
    lists = {values["segments"] for values in found.values()}
    assert None in lists
    assert any("," in one for one in lists if one)
    for values in found.values():
        named = {one for one in READY if values[f"told {one}"]}
        assert set(filter(None, (values["segments"] or "").split(","))) == named


def test_arms_are_drawn_by_the_documented_hash_within_binomial_bounds_and_independently(tmp_path: Path) -> None:
    rows = [row | {"user_id": f"u{i}", "subscription_id": f"S{i}"} for i, row in enumerate(lives.lives(2, 9000, NOW))]
    experiments = [
        {"name": "spring", "arms": {"control": 0.2, "S10": 0.3, "S50": 0.3}},
        {"name": "price", "arms": {"low": 0.5, "high": 0.5}, "salt": "a"},
        {"name": "trials", "segment": "trial_users", "arms": {"x": 0.5, "y": 0.5}},
    ]
    found = desired(tmp_path, rows, contract(segments="trial_users", experiments=experiments), NOW)
    total = len(found)

    def near(count: int, of: int, share: float) -> bool:
        return abs(count - of * share) < 5 * (of * share * (1 - share)) ** 0.5

    for user, values in found.items():
        at = lives.drawn("experiment:spring:", user)
        arm = "control" if at < 0.2 else "S10" if at < 0.5 else "S50" if at < 0.8 else None
        assert values["experiment spring"] == arm
        assert (values["experiment trials"] is not None) == values["in trial_users"]
    for arm, of in (("control", 0.2), ("S10", 0.3), ("S50", 0.3), (None, 0.2)):
        assert near(sum(values["experiment spring"] == arm for values in found.values()), total, of)
        both = sum(
            values["experiment spring"] == arm and values["experiment price"] == "low" for values in found.values()
        )
        assert near(both, total, of / 2)


# Operators


@pytest.mark.parametrize("seed", range(2))
def test_every_operator_takes_whom_a_second_implementation_takes(tmp_path: Path, seed: int) -> None:
    today = NOW.astimezone(lives.ZONE).date()
    rows = lives.lives(seed, 400, NOW)
    made = lives.filters(seed, 150, today)
    segments = [{"name": f"s{i}", "filters": [row]} for i, row in enumerate(made)]
    for i in range(9):  # of other segments, and two rows at once
        rows_of = [{"segment": f"s{i}"}, {"segment": f"s{i + 1}", "exclude": True}]
        segments.append({"name": f"t{i}", "filters": rows_of})
    found = desired(tmp_path, rows, contract(segments=segments), NOW)
    sizes: dict[str, set[bool]] = {}
    for user, subscriptions in by_reader(rows).items():
        traits = lives.computed(subscriptions, NOW)
        primary = traits["primary"]
        values = traits | {trait: lives.day(primary[trait]) for trait in lives.DATES}
        values |= {trait: primary[trait] for trait in ("term_id", "billing_period", "auto_renew", "total_charged")}
        inside: dict[str, bool] = {}
        for segment in segments:
            name = str(segment["name"])
            inside[name] = all(lives.holds(row, values, today, inside) for row in segment["filters"])
            assert found[user][f"in {name}"] == inside[name], (user, segment, values)
            sizes.setdefault(name, set()).add(inside[name])
    assert sum(len(both) == 2 for both in sizes.values()) > len(sizes) / 2, "most filters take some and leave some"
    asked = {operator for row in made for operator in row.get("include", row.get("exclude", {}))}
    assert asked == set(OPERATORS)


# Broken doubles


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("days_to_access_end", "CASE WHEN live THEN greatest(date_diff('day', today, access_end_day), 0) END"),
        ("tenure", "count(DISTINCT start_day)"),
        ("lifecycle_stage", "CASE WHEN stage = 'unknown' THEN 'none' ELSE stage END"),
        ("active_subscription_count", "count(*)"),
    ],
)
def test_a_wrong_formula_is_found_out(name: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, name, replace(BY_NAME[name], sql=wrong))
    with pytest.raises(AssertionError, match=name):
        test_computed_traits_and_ready_made_segments_are_those_of_a_second_implementation(
            tmp_path, 0, NOW, "Europe/Amsterdam", monkeypatch
        )


@pytest.mark.parametrize(("operator", "wrong"), [("at_most", "<"), ("before", "<="), ("after", ">=")])
def test_a_wrong_bound_is_found_out(operator: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_COMPARISONS, operator, wrong)
    with pytest.raises(AssertionError):
        test_every_operator_takes_whom_a_second_implementation_takes(tmp_path, 0)


def test_a_hash_of_the_engine_instead_of_the_documented_one_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "share", lambda salt: f"(hash('{salt}' || user_id) % 1000 / 1000)")
    with pytest.raises(AssertionError):
        test_arms_are_drawn_by_the_documented_hash_within_binomial_bounds_and_independently(tmp_path)
