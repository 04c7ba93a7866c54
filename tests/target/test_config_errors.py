"""Settings that make no sense are told at start-up, all at once, with path and suggestion, before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import ConfigRefused
from target_recurly_engage.contract import contract_of

from tests.target.test_plan import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.target.conftest import Engage


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigRefused) as raised:
        contract_of(CONFIG | settings)
    return str(raised.value)


def one_filter(**row: object) -> list[dict[str, Any]]:
    return [{"name": "s", "filters": [row]}]


def rows(*filters: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "s", "filters": list(filters)}]


def formula(sql: str, kind: str = "number") -> list[dict[str, Any]]:
    return [{"name": "x", "type": kind, "sql": sql}]


F = "segments[0].filters[0]"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    # Segments
    ({"segments": "trial_userz"}, "segments[0]: 'trial_userz' is no ready-made segment; did you mean trial_users."),
    ({"segments": [7]}, "segments[0]: takes the name of a ready-made segment, or a segment."),
    ({"segments": [{"name": "s"}]}, "segments[0].filters: takes a list of at least one filter."),
    (
        {"segments": [{"name": "S x", "filters": [{"trait": "auto_renew", "include": {"one_of": [True]}}]}]},
        "segments[0].name: 'S x' is no name: small letters, digits and underscores, please.",
    ),
    (
        {"segments": ["grace", "grace"]},
        "segments[1].name: there are two segments grace; rename one.",
    ),
    (
        {"segments": [{"name": "grace", "holdback": 1}]},
        "segments[0].holdback: 1 is no share: from 0 to below 1, please.",
    ),
    ({"segments": [{"name": "grace", "priority": "high"}]}, "segments[0].priority: 'high' is no whole number."),
    (
        {"segments": [{"name": "grace", "prio": 1}]},
        "segments[0].prio: no member here; did you mean priority.",
    ),
    (
        {"segments": one_filter(trait="term_nam", include={"one_of": ["a"]})},
        f"{F}.trait: no trait 'term_nam'; did you mean term_name.",
    ),
    ({"segments": one_filter(include={"one_of": ["a"]})}, f"{F}: takes one of trait, segment, promotion and any_of."),
    (
        {"segments": one_filter(trait="term_name")},
        f"{F}: takes one of include and exclude, with an operator such as {{one_of: [a, b]}}.",
    ),
    (
        {"segments": one_filter(trait="term_name", include={"one_off": ["a"]})},
        f"{F}.include.one_off: no operator; did you mean one_of.",
    ),
    (
        {"segments": one_filter(trait="term_name", include={"at_least": 3})},
        f"{F}.include.at_least: term_name is a string, which takes one_of, is_set.",
    ),
    (
        {"segments": one_filter(trait="total_charged", include={"before": "2026-01-01"})},
        f"{F}.include.before: total_charged is a number, which takes one_of, between, at_least, at_most, is_set.",
    ),
    (
        {"segments": one_filter(trait="auto_renew", include={"one_of": ["yes"]})},
        f"{F}.include.one_of: 'yes' is no boolean, as auto_renew is.",
    ),
    (
        {"segments": one_filter(trait="start_date", include={"after": "01/02/2026"})},
        f"{F}.include.after: '01/02/2026' is no date, as start_date is.",
    ),
    (
        {"segments": one_filter(trait="start_date", exclude={"within_next_days": -1})},
        f"{F}.exclude.within_next_days: -1 is no number of days.",
    ),
    (
        {"segments": one_filter(trait="tenure", include={"between": [9, 3]})},
        f"{F}.include.between: nothing lies between 9 and 3; turn them round.",
    ),
    ({"segments": one_filter(trait="tenure", include={"between": 3})}, f"{F}.include.between: takes a list."),
    (
        {"segments": one_filter(trait="tenure", include={"is_set": False})},
        f"{F}.include.is_set: takes true; its opposite is exclude: {{is_set: true}}.",
    ),
    ({"segments": one_filter(any_of=[])}, f"{F}.any_of: takes a list of at least one filter."),
    (
        {"segments": rows({"segment": "other"})},
        f"{F}.segment: no segment 'other'; there is s.",
    ),
    ({"segments": rows({"segment": "s"})}, "segments.s: asks of itself: s → s."),
    (
        {
            "segments": rows(
                {"trait": "tenure", "include": {"at_least": 9}}, {"trait": "tenure", "include": {"at_most": 3}}
            )
        },
        "segments[0]: tenure cannot be at least 9 and at most 3 at once.",
    ),
    (
        {
            "segments": rows(
                {"trait": "auto_renew", "include": {"one_of": [True]}},
                {"trait": "auto_renew", "include": {"one_of": [False]}},
            )
        },
        "segments[0]: no reader can have a auto_renew that all its filters take; see their values.",
    ),
    (
        {
            "segments": rows(
                {"trait": "term_id", "include": {"one_of": ["a"]}}, {"trait": "term_id", "exclude": {"one_of": ["a"]}}
            )
        },
        "segments[0]: no reader can have a term_id that all its filters take; see their values.",
    ),
    (
        {"segments": one_filter(trait="lifecycle_stage", include={"one_of": ["active", "lapsd"]})},
        f"{F}.include.one_of: lifecycle_stage is never 'lapsd'; did you mean lapsed.",
    ),
    (
        {"segments": rows({"any_of": [{"trait": "lifecycle_stage", "exclude": {"one_of": ["Grace"]}}]})},
        f"{F}.any_of[0].exclude.one_of: lifecycle_stage is never 'Grace'; did you mean grace.",
    ),
    (
        {"segments": rows(
            {"trait": "end_date", "include": {"is_set": True}}, {"trait": "end_date", "exclude": {"is_set": True}}
        )},
        "segments[0]: end_date cannot be set and not set at once.",
    ),
    # Traits and formulas
    ({"traits": "term_nam"}, "traits: term_nam is no trait; did you mean term_name."),
    ({"traits": [{"name": "x"}]}, "traits[0]: takes one of sql, has_active and has_had."),
    (
        {"traits": formula("max(")},
        "traits[0].sql: cannot be parsed: it ends before it is complete.",
    ),
    (
        {"traits": formula("max(1) +) 2")},
        'traits[0].sql: cannot be parsed: syntax error at or near ")".',
    ),
    (
        {"traits": formula("(SELECT max(a) FROM read_csv('/etc/passwd') AS t(a))")},
        "traits[0].sql: may read the subscriptions of one reader only, so it takes no SELECT.",
    ),
    (
        {"traits": formula("count(*) OVER ()")},
        "traits[0].sql: may read the subscriptions of one reader only, so it takes no OVER.",
    ),
    (
        {"traits": formula("unnest([1, 2])")},
        "traits[0].sql: unnest() makes several rows of a reader, who has one value.",
    ),
    (
        {"traits": formula("max(1); DROP TABLE delivered")},
        'traits[0].sql: cannot be parsed: syntax error at or near ";".',
    ),
    (
        {"traits": formula("(SELECT 1)")},
        "traits[0].sql: may read the subscriptions of one reader only, so it takes no SELECT.",
    ),
    (
        {"traits": formula("random()")},
        (
            "traits[0].sql: random() does not always answer the same, so every run would send; there are the columns "
            "today and moment."
        ),
    ),
    (
        {"traits": formula("max(term_name)")},
        "traits[0].sql: makes a text, and type says number; say type: string.",
    ),
    ({"traits": formula("1", "int")},
     "traits[0].type: 'int' is no type; there is string, number, money, boolean, date."),
    (
        {"traits": [*formula("1"), *formula("2")]},
        "traits[1].name: there is a trait x already; choose another name.",
    ),
    (
        {"traits": [{"name": "x", "has_active": {"term": ["a"]}}]},
        "traits[0].has_active.term: no property of a subscription; did you mean term_id.",
    ),
    ({"traits": [{"name": "has space", "type": "number", "sql": "1"}]},
     "traits: 'has space' is no name for a trait. Letters, digits and underscores, please."),
    ({"trait_names": {"term_name": "term_id"}},
     "traits: term_id is there already, as traits. Leave one out, or rename it."),
    # The primary subscription, thresholds, experiments
    ({"primary": ["lives"]}, "primary[0]: 'lives' is no criterion; did you mean live."),
    (
        {"leave_out": {"term_typ": ["x"]}},
        "leave_out.term_typ: no property of the log that the ledger keeps; did you mean term_type.",
    ),
    ({"thresholds": {"tenure": "weekly"}}, "thresholds: tenure: takes a list of numbers, like [30, 90], or daily."),
    (
        {"experiments": [{"name": "e", "arms": {"a": 0.7, "b": 0.4}}]},
        "experiments[0].arms: the shares make 110 %, which is more than 100 %.",
    ),
    (
        {"experiments": [{"name": "e", "segment": "s", "arms": {"a": 0.5, "b": 0.5}}]},
        "experiments[0].segment: no segment 's'.",
    ),
    (
        {"experiments": [{"name": "e", "arms": {"a": 1}}]},
        "experiments[0].arms: takes at least two arms with their shares, such as {control: 0.2, SPRING50: 0.8}.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), MISTAKES, ids=[message[:60] for _, message in MISTAKES])
def test_a_mistake_is_told_with_path_and_suggestion(settings: dict[str, Any], message: str) -> None:
    assert refusal(**settings) == message


def test_a_segment_that_asks_of_itself_through_others_is_named_with_its_way() -> None:
    circle = [
        {"name": one, "filters": [{"segment": other}]} for one, other in (("a", "b"), ("b", "c"), ("c", "a"))
    ]  # fmt: skip
    told = refusal(segments=circle)
    assert told.startswith("segments.")
    assert "asks of itself" in told
    assert {"a", "b", "c"} <= set(told.rstrip(".").replace("→", " ").split())


EVERY_KIND: dict[str, Any] = {
    "traits": ["term_nam", {"name": "x", "type": "number", "sql": "max("}, *formula("(SELECT 1)"), *formula("1")],
    "primary": ["lives"],
    "leave_out": {"term_typ": ["x"]},
    "thresholds": {"nothing": [1]},
    "segments": [
        "gracee",
        {"name": "unknown", "filters": [{"trait": "term_nam", "include": {"one_of": ["a"]}}]},
        {"name": "operator", "filters": [{"trait": "term_name", "include": {"at_least": 3}}]},
        {"name": "never", "filters": [{"trait": "lifecycle_stage", "include": {"one_of": ["gone"]}}]},
        {"name": "nobody", "filters": [
            {"trait": "term_id", "include": {"one_of": ["a"]}}, {"trait": "term_id", "exclude": {"one_of": ["a"]}},
        ]},
        {"name": "ring_a", "filters": [{"segment": "ring_b"}]},
        {"name": "ring_b", "filters": [{"segment": "ring_a"}]},
        {"name": "nobody", "filters": [{"trait": "tenure", "include": {"at_least": 3}}]},
    ],
    "experiments": [{"name": "e", "arms": {"a": 0.7, "b": 0.4}}],
}  # fmt: skip
PATHS = (
    "traits", "traits[1].sql", "traits[2].sql", "primary[0]", "leave_out.term_typ", "thresholds: nothing",
    "segments[0]", "segments[1].filters[0].trait", "segments[2].filters[0].include.at_least",
    "segments[3].filters[0].include.one_of", "segments[4]", "segments[7].name", "segments.ring_a",
    "experiments[0].arms",
)  # fmt: skip


def test_all_mistakes_are_told_at_once_before_anything_is_read(engage: Engage) -> None:
    run = engage.run(b"this is no Singer message", **EVERY_KIND)
    assert run.code == 78
    assert f"{len(PATHS)} settings cannot be used. (1) " in run.errors
    for path in PATHS:
        assert f") {path}: " in run.errors, path
    assert not engage.ledger.exists()
    assert "is no JSON" not in run.log


def test_segments_come_from_a_file_as_well(tmp_path: Path) -> None:
    file = tmp_path / "segments.yml"
    file.write_text("segments:\n  - grace\n  - name: x\n    filters: [{trait: tenure, include: {at_least: 3}}]\n")
    assert [one.name for one in contract_of(CONFIG | {"segments": str(file)}).segments] == ["grace", "x"]
    file.write_text("segments: [")
    assert refusal(segments=str(file)).startswith(f"segments: {file} cannot be read")
    assert "cannot be read" in refusal(segments=str(tmp_path / "none.yml"))
    file.write_text("a: 1")
    assert refusal(segments=str(file)) == f"segments: {file} holds no list of segments."
