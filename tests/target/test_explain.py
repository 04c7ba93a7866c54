"""`recurly-engage explain` beyond values: rejections, invalid values, the API, and what a formula read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner
from target_recurly_engage.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.target.conftest import Engage


@pytest.fixture(scope="module")
def loaded(make_engage: Callable[[], Engage]) -> Engage:
    """Ann pays, and was upgraded; Bob leaves; Eve was rejected and never told; the API was read."""
    engage = make_engage()
    engage.config |= {"traits": "all,computed,has_ever_paid"}
    records = [
        engage.subscription(1, user="ann", promo_code="x" * 1001),
        engage.subscription(2, user="ann", subscription_status="Upgraded", total_charged=3),
        engage.subscription(3, user="bob", auto_renew=False, access_expiration_date="2026-04-05T05:00:00+00:00"),
        engage.subscription(4, user="eve"),
    ]
    assert engage.run(engage.snapshot(records)).code == 0
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("DELETE FROM delivered WHERE user_id = 'eve'")
        connection.execute("INSERT INTO rejects VALUES ('eve', 422, 'no such id', 3, now(), now(), 'infinity', 1)")
        connection.execute(
            "INSERT INTO api_subscriptions BY NAME SELECT 'RC000003' AS subscription_id, 'bob' AS user_id, "
            "'active' AS api_status, false AS auto_renew, '2026-03-28 05:00:00+00'::TIMESTAMPTZ AS read_at"
        )
    return engage


def ask(engage: Engage, user: str, *more: str) -> str:
    path = engage.folder / "cli.json"
    path.write_text(json.dumps(engage.config), encoding="utf-8")
    done = CliRunner().invoke(main, ["--config", str(path), "explain", "--user", user, *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def answer(engage: Engage, user: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(engage, user, "--json"))
    return found


def test_a_formula_shows_what_it_read_of_which_subscription(loaded: Engage) -> None:
    before = loaded.dump(without=())
    traits = answer(loaded, "bob")["traits"]
    assert traits["lifecycle_stage"]["value"] == "pending_cancel"
    (row,) = traits["lifecycle_stage"]["read"]
    assert (row["subscription_id"], row["word"], row["live"], row["auto_renew"]) == (
        "RC000003", "active", "true", "false",
    )  # fmt: skip
    assert traits["days_to_access_end"]["read"][0]["access_end_day"] == "2026-04-05"
    assert traits["term_type"] | {"meaning": ""} == {
        "value": "Payment", "told": "Payment", "meaning": "", "made_of": "term_type of subscriptions", "read": [],
    }  # fmt: skip
    words = ask(loaded, "bob", "--trait", "lifecycle_stage")
    assert "made of: stage, where stage is CASE" in words
    assert "read: subscription_id RC000003, " in words
    assert loaded.dump(without=()) == before


def test_a_formula_over_all_subscriptions_shows_all_of_them(loaded: Engage) -> None:
    read = answer(loaded, "ann")["traits"]["has_ever_paid"]["read"]
    assert [row["subscription_id"] for row in read] == ["RC000001", "RC000002"]
    assert [row["total_charged"] for row in read] == ["12.5000", "3.0000"]


def test_a_rejected_reader_whom_engage_was_never_told_of_is_explained(loaded: Engage) -> None:
    words = ask(loaded, "eve")
    assert "nothing was delivered yet" in words
    assert "rejected with 422 no such id, 3 attempt(s), next one after infinity" in words
    assert "lifecycle_stage: (not told) → active" in words


def test_values_that_cannot_be_sent_and_the_api_are_told(loaded: Engage) -> None:
    assert "promo_code cannot be sent, and counts as absent: longer than 1000 characters" in ask(loaded, "ann")
    assert "Piano's API on 2026-03-28 05:00:00+00: RC000003 active, does not renew" in ask(loaded, "bob")
    assert ask(loaded, "nobody") == "nobody: the ledger knows no such reader\n"
