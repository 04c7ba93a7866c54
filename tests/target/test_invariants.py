"""A database that loses rows stops the run: nothing is sent, STATE stays behind, and the ledger is as it was.

The doubles put the fault of DuckDB 2.0.0 back, one table at a time, without a word of it in any answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.target.conftest import STREAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.target.conftest import Engage, Message

LOSES = """
import re
from target_recurly_engage.ledger import Ledger

class Losing:
    '''A connection whose tables lack a row once a statement like the pattern was executed.'''

    def __init__(self, connection, pattern, table):
        self._connection, self._pattern, self._table = connection, re.compile(pattern), table

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *parameters):
        done = self._connection.execute(sql, *parameters)
        if not self._pattern.match(sql):
            return done
        answer = done.fetchall()
        lost = self._connection.execute(
            f"DELETE FROM {{self._table}} WHERE rowid IN (SELECT max(rowid) FROM {{self._table}} WHERE {where})"
        ).fetchall()
        assert lost == [(1,)], lost
        return Answer(answer)

class Answer:
    def __init__(self, rows):
        self._rows = rows

    def fetchall(self):
        return self._rows

class LosingLedger(Ledger):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.connection = Losing(self.connection, {pattern!r}, {table!r})

from target_recurly_engage.shared import ledger as opening
opening.Ledger = LosingLedger
"""

CRM = {"crm": {"role": "users", "user_id": "id", "traits": ["tier"]}}
SETTINGS: dict[str, Any] = {
    "streams": {STREAM: {"role": "subscriptions"}, "promotions": {"role": "promotions"}} | CRM,
    "traits": "all,computed,tenure",
    "segments": [
        {"name": "gold", "filters": [{"trait": "tier", "include": {"one_of": ["gold"]}}]},
        {"name": "offered", "filters": [{"promotion": "PR1", "include": True}]},
        {"name": "monthly", "filters": [{"trait": "billing_period", "include": {"one_of": ["1 month"]}}]},
    ],
}
"""With these each source there is has rows: the subscriptions, formulas of all sorts, a stream of users, segments."""

MADE = (
    "primaries", "computed_0", "computed_1", "computed_2", "computed", "eligible", "matches", "audience", "readers",
    "suspects", "slice", "slice_0", "slice_1", "slice_2", "slice_3", "told", "compared", "plan",
)  # fmt: skip
"""The tables in which a run works out what is to be sent."""


def crm(*users: str, version: int | None = None, tier: str = "gold") -> list[Message]:
    versions = {} if version is None else {"version": version}
    properties = {"id": {"type": "string"}, "tier": {"type": "string"}}
    return [
        {"type": "SCHEMA", "stream": "crm", "key_properties": ["id"], "schema": {"properties": properties}},
        *({"type": "RECORD", "stream": "crm", "record": {"id": one, "tier": tier}} | versions for one in users),
        *([{"type": "ACTIVATE_VERSION", "stream": "crm", **versions}] if versions else []),
    ]


def promotions() -> list[Message]:
    properties = {"promotion_id": {"type": "string"}, "promotion_name": {"type": "string"}}
    schema = {"type": "SCHEMA", "stream": "promotions", "key_properties": ["promotion_id"]}
    return [
        schema | {"schema": {"properties": properties}},
        {"type": "RECORD", "stream": "promotions", "record": {"promotion_id": "PR1", "promotion_name": "Spring"}},
    ]


def first_day(engage: Engage) -> list[Message]:
    """Users with one subscription and with two, some only in the other stream, one in both."""
    records = [
        *engage.subscriptions(12, billing_period="1 month"),
        engage.subscription(50, 1),
        engage.subscription(51, 2),
    ]
    return [*promotions(), *crm("u3", "c1", "c2", version=1), *engage.snapshot(records)]


def second_day(engage: Engage) -> list[Message]:
    """A few subscriptions change, and one of a user with two; no snapshot, so that they go to the others."""
    changed = [engage.subscription(number, promo_code="P", billing_period="1 month") for number in (1, 2, 3)]
    return [*crm("u4", "c1", tier="silver"), *engage.messages([*changed, engage.subscription(70)])]


def stops(engage: Engage, script: str, messages: list[Message], **config: object) -> str:
    """Run with the double, and check that the run stopped before anything left it."""
    files, before = len(engage.files), engage.dump()
    run = engage.run(messages, script=script, **SETTINGS | config)
    assert run.code == 70, run.log
    assert run.states == []
    assert len(engage.files) == files
    after = engage.dump()
    assert {table: after[table] for table in before} == before
    assert engage.summaries[-1]["status"] == "stopped"
    assert "the database lost rows" in run.errors
    assert not re.search(r"\b[uc]\d", run.errors), "no ids of users in a message"
    return run.errors


def losing(table: str, pattern: str | None = None, where: str = "true") -> str:
    made = pattern or rf"\s*(CREATE OR REPLACE (TEMP )?TABLE|INSERT INTO) {table}\b"
    return LOSES.format(pattern=made, table=table, where=where)


@pytest.fixture(scope="module")
def day_1(make_engage: Any) -> Engage:  # noqa: ANN401 - a fixture
    """A ledger after a first day; to be copied."""
    engage: Engage = make_engage()
    run = engage.run(first_day(engage), **SETTINGS)
    assert run.code == 0, run.log
    return engage


@pytest.fixture
def after_day_1(day_1: Engage, engage: Engage) -> Engage:
    engage.ledger.write_bytes(day_1.ledger.read_bytes())
    return engage


def test_without_a_double_the_second_day_is_delivered(after_day_1: Engage) -> None:
    run = after_day_1.run(second_day(after_day_1), script=losing("nothing"), **SETTINGS)
    assert (run.code, len(run.states)) == (0, 1), run.log
    assert {"u1", "u2", "u3", "u4", "c1", "u70"} <= set(after_day_1.sent())


@pytest.mark.parametrize("table", MADE)
def test_a_row_that_is_lost_while_the_plan_is_made_stops_the_run(after_day_1: Engage, table: str) -> None:
    stops(after_day_1, losing(table), second_day(after_day_1))


MERGES: Mapping[str, tuple[str, str]] = {
    "few go to the many": ("subscriptions", r"INSERT INTO subscriptions"),
    "the many that were there": ("subscriptions", r"DELETE FROM subscriptions USING"),
    "a stream of users": ("users_crm", r"ALTER TABLE .* RENAME TO .users_crm"),
    "promotions": ("promotions", r"INSERT INTO .promotions"),
    "rows that came": ("incoming", r"SELECT count\(DISTINCT hash"),
}


@pytest.mark.parametrize("case", MERGES)
def test_a_row_that_is_lost_while_rows_are_merged_stops_the_run(after_day_1: Engage, case: str) -> None:
    table, pattern = MERGES[case]
    stops(after_day_1, losing(table, pattern), [*promotions(), *second_day(after_day_1)])
