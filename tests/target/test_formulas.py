"""Formulas of the user's own: what may be written, and what is refused at start-up with a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.duck import connect
from piano_engage_common.stops import ConfigRefused
from target_recurly_engage import functions
from target_recurly_engage.computed import FORMULAS
from target_recurly_engage.contract import contract_of
from target_recurly_engage.formulas import _LIVES_TYPES, _parsed

from tests.target.test_plan import CONFIG

if TYPE_CHECKING:
    from tests.target.conftest import Engage

DOCS = Path(__file__).parents[2] / "docs" / "traits.md"


def check(sql: object, kind: str = "number") -> None:
    contract_of(CONFIG | {"traits": [{"name": "x", "type": kind, "sql": sql}]})


ACCEPTED = [
    ("min(year(start_day))", "number"), ("today - min(start_day)", "number"), ("-count(*)", "number"),
    ("max(date_diff('day', start_day, today)) + 1", "number"), ("max(total_charged) - min(total_charged)", "money"),
    ("max(CASE WHEN live AND word LIKE 'a%' THEN 1 ELSE 0 END)", "number"), ("count(*) FILTER (live)", "number"),
    ("count(DISTINCT term_id) % 2", "number"), ("count(*) FILTER (start_day > today - 30)", "number"),
    ("max(extract(year from start_date AT TIME ZONE 'UTC'))", "number"), ("max(lives.days_added)", "number"),
    ("max(start_date + INTERVAL 1 DAY)", "date"), ("max(start_day) BETWEEN today - 7 AND today", "boolean"),
    ("any_value(term_name) FILTER (is_primary)", "string"), ("string_agg(term_id, ',' ORDER BY term_id)", "string"),
    ("any_value(term_name) FILTER (live AND is_primary)", "string"), ("count(*) -- all of them", "number"),
    ("upper(last(term_name ORDER BY start_date, subscription_id)) || '!'", "string"), ("(count(*))", "number"),
    ("bool_or(term_id IN ('a', 'b') AND NOT coalesce(live, false))", "boolean"),
    ("max(TRY_CAST(term_id AS INT))", "number"),
    ("len(list_distinct(list(term_id ORDER BY term_id)))", "number"), ("COUNT(*)", "number"), ("1", "number"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "kind"), ACCEPTED, ids=[sql for sql, _ in ACCEPTED])
def test_what_gives_the_same_answer_to_the_same_rows_is_taken(sql: str, kind: str) -> None:
    check(sql, kind)


EMPTY, STARS, ELSEWHERE = "is empty", "no *, and no COLUMNS()", "may read the subscriptions of one reader only"
UNSTEADY, UNKNOWN, ORDER = "does not always answer the same", "is no function of formulas", "depends on the order"
ONE = "is not one expression"
REFUSED: list[tuple[object, str]] = [
    *((sql, EMPTY) for sql in ("", " \n", "-- count(*)", "/* count(*) */")),
    *((sql, STARS) for sql in (
        "max(columns(*))", "*", "columns('.*_date')", "max(columns('.*_date'))", "*columns(*)", "lives.*",
        "unpack(columns(*))", "greatest(*columns(*))", "* EXCLUDE (user_id)",
    )),
    *((sql, ELSEWHERE) for sql in (
        "(SELECT 1)", "EXISTS(SELECT 1)", "1 = ANY([1])", "count(*) OVER ()", "rank() OVER (ORDER BY 1)",
        "max((SELECT max(a) FROM read_csv('/etc/passwd') AS t(a)))", "(FROM lives)",
    )),
    *((sql, UNSTEADY) for sql in (
        "random()", "now()", "RANDOM()", "main.random()", "system.main.random()", "uuid()", "gen_random_uuid()",
        "nextval('s')", "current_setting('threads')", "current_date", "CURRENT_TIMESTAMP", "localtime", "today()",
        "age(start_day)", "setseed(0.1)", "max(random())", "count(*) FILTER (random() > 0.5)", "txid_current()",
        "coalesce(max(1), random())", "[random()]", "string_agg('a' ORDER BY random())",
    )),
    *((sql, UNKNOWN) for sql in (
        "getenv('HOME')", "read_csv('x')", "read_text('x')", "pg_sleep(1)", "list_filter([1], lambda x: x > 1)",
        "[x for x in [1]]", "sume(1)", "repeat('x', 1000000000)", "hash(max(1))", "query('SELECT 1')",
        "map {'a': 1}", "approx_count_distinct(term_id)",
    )),
    *((f"{one}(term_id)", ORDER) for one in functions.ORDERED),
    ("first(term_id) FILTER (live OR is_primary)", ORDER),
    *((sql, "there is no column") for sql in (
        "user", "session_user", "lives", "count(lives)", "x", "other.live", "\x00",
    )),
    *((sql, ONE) for sql in ("1) AS x, (2", "1) FROM (SELECT 1", "1) AS x FROM lives, (SELECT 1")),
    *((sql, "several values") for sql in ("1, 2", "(1, 2)", "max(1), max(2)")),
    *((sql, "no single value") for sql in ("[1]", "{'a': 1}", "[max(total_charged)]")),
    *((sql, "takes no parameter") for sql in ("?", "$1", "max($x)")),
    *((sql, "takes a text") for sql in (None, 5, True, [], {})),
    *((sql, "cannot be parsed") for sql in (
        "1) GROUP BY (1", "1) LIMIT (1", "1) UNION (SELECT 1", "1) WHERE (true", "1; DROP TABLE x", "1)--",
        "max(1", "'",
        "+".join(["1"] * 900), "+".join(["1"] * 5000), "(" * 3000 + "1" + ")" * 3000, "max('\ud800')",
    )),
    *((sql, "cannot be worked out") for sql in ("total_charged", "sum(sum(total_charged))", "max(days_added[1])")),
    ("max(total_charged) EXPORT_STATE", "takes no EXPORT_STATE"), ("current_schemas(true)", UNSTEADY),
    ("#1", "not by their numbers"), ("unnest([1])", "makes several rows"), ("DEFAULT", "takes no value default"),
    ("GROUPING(user_id)", "takes no grouping function"), ("max(term_id COLLATE NOCASE)", "takes no collate"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "why"), REFUSED, ids=[repr(sql)[:40] for sql, _ in REFUSED])
def test_what_no_formula_may_be_is_refused_in_a_sentence(sql: object, why: str) -> None:
    with pytest.raises(ConfigRefused, match=r"^traits\[0\]\.sql: ") as raised:
        check(sql)
    assert why in str(raised.value)


def test_a_formula_is_refused_by_the_command_with_78(engage: Engage) -> None:
    run = engage.run([], traits=["all", {"name": "x", "type": "number", "sql": "max(columns(*))"}])
    assert run.code == 78
    assert run.errors.endswith("traits[1].sql: takes columns by their names: no *, and no COLUMNS().")


def test_a_formula_that_fails_on_the_rows_there_are_is_named_and_no_cell_is_shown(engage: Engage) -> None:
    traits: list[Any] = ["all", {"name": "number_of_term", "type": "number", "sql": "max(term_id::BIGINT)"}]
    run = engage.run(engage.snapshot(engage.subscriptions(2, term_id="12")), traits=traits)
    assert run.code == 0, run.log
    run = engage.run(engage.snapshot(engage.subscriptions(2, term_id="TM SECRET")), traits=traits)
    assert (run.code, run.states) == (78, [])
    assert "number_of_term" in run.errors
    assert "SECRET" not in run.log
    assert "Traceback" not in run.log


def test_the_functions_are_there_in_this_engine_and_none_answers_as_it_likes() -> None:
    with connect() as connection:
        rows = connection.execute(
            "SELECT function_name, bool_or(coalesce(stability, '') = 'VOLATILE') FROM duckdb_functions() GROUP BY 1"
        ).fetchall()
    volatile = dict(rows)
    spelled = {"nullif", "if"}  # by the parser, in some versions
    assert {one for one in functions.ALLOWED if one not in volatile and one not in spelled} == set()
    assert {one for one in functions.ALLOWED if volatile.get(one)} == set()


def test_the_documentation_lists_exactly_these_functions() -> None:
    page = DOCS.read_text(encoding="utf-8")
    table = page[page.index("| Aggregates |") : page.index("`arg_max(term_name, start_date)` picks")]
    named = {
        one for row in table.splitlines() for one in re.findall(r"`(\w+)`", row.split("|")[2] if "|" in row else "")
    }
    assert named == functions.ALLOWED - functions.OPERATORS - {"count_star"}


def test_formulas_that_ship_are_made_of_nothing_else() -> None:
    for formula in FORMULAS:
        assert functions.misuse(_parsed(formula.sql), _LIVES_TYPES) is None, formula.name
