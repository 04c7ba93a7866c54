"""Promotions, promo codes and terms on their way into the ledger, and what a run makes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb
from target_recurly_engage import ledger as ledger_module
from target_recurly_engage.catalogue import KEPT
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.migrations import MIGRATIONS

from tests.target import shop
from tests.target.test_cli import answer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.target.conftest import Engage, Message

FLAGS = (
    "unlimited_uses", "new_customers_only", "can_be_applied_on_renewal", "deleted", "payment_new_customers_only",
    "payment_allow_promo_codes",
)  # fmt: skip
KINDS: dict[str, Any] = dict.fromkeys(FLAGS, "boolean") | {
    "uses_allowed": "integer", "uses": "integer", "discount_amount": "number", "percentage_discount": "number",
    "fixed_discount_list": "array", "term_ids": "array",
}  # fmt: skip


def stream(name: str, *rows: dict[str, Any], version: int | None = None, lacking: str = "") -> list[Message]:
    """Make what a tap sends of one stream, with properties that nobody asked for among them."""
    key = {"promotions": "promotion_id", "promo_codes": "promo_code_id", "terms": "term_id"}[name]
    shapes = {
        "promotions": shop.promotion(), "promo_codes": shop.code("PR1", "a"), "terms": shop.term("TM1"),
    } | {"": {}}  # fmt: skip
    names = [one for one in ("aid", "update_date", "create_by", *shapes[name]) if one != lacking]
    properties = {one: {"type": [KINDS.get(one, "string"), "null"]} for one in names}
    versions = {} if version is None else {"version": version}
    body = [
        {"type": "RECORD", "stream": name, "record": {"aid": "A1", "create_by": "canary@example.com"} | row} | versions
        for row in rows
    ]
    end = [{"type": "ACTIVATE_VERSION", "stream": name} | versions] if versions else []
    schema = {"type": "SCHEMA", "stream": name, "key_properties": ["aid", key], "schema": {"properties": properties}}
    return [schema, *body, *end]


def ids(engage: Engage, table: str = "promotions") -> list[str]:
    """Name what the ledger holds."""
    return [one for (one,) in engage.query(f"SELECT {KEPT[table].key} FROM {table} ORDER BY 1")]


DISCOUNTS = [{"fixed_discount_id": "F", "currency": "EUR", "amount": "5.00", "amount_value": 5.5}]


def test_what_came_is_kept_and_what_did_not_come_again_stays(engage: Engage) -> None:
    """The tap sends only what changed, so the second run brings one promotion."""
    first = [
        *stream("promotions", shop.promotion("PR1", uses=1, fixed_discount_list=DISCOUNTS, term_ids=["TM1", "TM2"]),
                shop.promotion("PR2", start_date="2026-03-01T00:00:00+00:00")),
        *stream("promo_codes", shop.code("PR1", "a"), shop.code("PR1", "b")),
        *stream("terms", shop.term("TM1")),
        *engage.snapshot(engage.subscriptions(2)),
    ]  # fmt: skip
    assert engage.run(first).code == 0
    second = [
        *stream("promotions", shop.promotion("PR1", uses=2)),
        *stream("promo_codes", shop.code("PR1", "b", "used")),
        *engage.snapshot(engage.subscriptions(2)),
    ]
    run = engage.run(second)
    assert run.code == 0
    assert "2 rows, 2 users, 0 changes" in run.log, "rows of subscriptions are told, and nothing is sent for the rest"
    assert engage.query("SELECT promotion_id, uses, start_date::DATE::VARCHAR FROM promotions ORDER BY 1") == [
        ("PR1", 2, None), ("PR2", 0, "2026-03-01"),
    ]  # fmt: skip
    assert engage.query("SELECT promo_code, state_value FROM promo_codes ORDER BY 1") == [
        ("a", "active"),
        ("b", "used"),
    ]
    assert ids(engage, "terms") == ["TM1"]
    assert engage.summaries[-1]["catalogue"] == {
        "promotions": {"before": 2, "after": 2, "came": 1, "vanished": 0},
        "promo_codes": {"before": 2, "after": 2, "came": 1, "vanished": 0},
    }
    dump = json.dumps(engage.dump(without=()), default=str)
    assert "canary" not in dump, "who made a promotion is nobody's business here"


def test_lists_are_kept_as_json_by_every_way_in(engage: Engage) -> None:
    path = engage.folder / "promotions.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 'PR2' AS promotion_id, ['TM1', 'TM2'] AS term_ids, true AS unlimited_uses, "
            "[{'currency': 'EUR', 'amount_value': 5.5}] AS fixed_discount_list, 5.5::DECIMAL(9, 2) AS discount_amount, "
            f"'2026-03-01 00:00:00+00'::TIMESTAMPTZ AS start_date) TO '{path}'"
        )
    batch = {
        "type": "BATCH", "stream": "promotions", "encoding": {"format": "parquet"}, "manifest": [path.as_uri()],
    }  # fmt: skip
    record = shop.promotion("PR1", fixed_discount_list=DISCOUNTS, term_ids=["TM1", "TM2"], discount_amount=5.5)
    run = engage.run([*stream("promotions", record), batch])
    assert run.code == 0, run.log
    assert engage.query(
        "SELECT promotion_id, term_ids->>'$[1]', (fixed_discount_list->>'$[0].amount_value')::DOUBLE, "
        "discount_amount::DOUBLE, unlimited_uses FROM promotions ORDER BY 1"
    ) == [("PR1", "TM2", 5.5, 5.5, True), ("PR2", "TM2", 5.5, 5.5, True)]
    assert not path.exists()


def test_a_snapshot_takes_away_what_it_lacks_and_an_empty_one_is_not_believed(engage: Engage) -> None:
    full = stream("promotions", *(shop.promotion(f"PR{n}") for n in range(4)), version=1)
    engage.run([*full, *engage.snapshot(engage.subscriptions(1))])
    assert engage.run(stream("promotions", shop.promotion("PR3"), version=2)).code == 0
    assert ids(engage) == ["PR3"]
    empty = engage.run(stream("promotions", version=3))
    assert empty.code == 80
    assert "promotions is complete with 0 rows, where the ledger holds 1" in empty.errors
    assert ids(engage) == ["PR3"]
    broken_off = engage.run(stream("promotions", shop.promotion("PR1"), version=4)[:-1])
    assert broken_off.code == 65
    assert ids(engage) == ["PR3"]


def test_rows_that_cannot_be_used_are_told(engage: Engage) -> None:
    lacking = engage.run(stream("promotions", lacking="promotion_id"))
    assert lacking.code == 65
    assert "stream 'promotions': its schema has no promotion_id. Is its role really promotions?" in lacking.errors
    odd = engage.run(
        [*stream("promotions", shop.promotion("PR1", uses="many"), shop.promotion("PR2")), *stream("terms")]
    )
    assert odd.code == 0
    assert any("promotions: 1 of 2 row(s) cannot be used and are left out (PR1)" in line for line in odd.warnings)
    assert engage.summaries[-1]["rejected_rows"] == {"promotions": 1}
    blank = engage.run(stream("promotions", shop.promotion("PR1"), shop.promotion(" "), shop.promotion("PR1", uses=7)))
    assert blank.code == 0
    assert any("promotions: 1 of 3 row(s) cannot be used and are left out: " in line for line in blank.warnings)
    assert engage.query("SELECT promotion_id, uses FROM promotions ORDER BY 1") == [("PR1", 7), ("PR2", 0)]


def test_another_application_is_refused_whichever_stream_it_comes_by(engage: Engage) -> None:
    engage.run(stream("terms", shop.term("TM1")))
    run = engage.run([*stream("promotions", shop.promotion("PR1", aid="A2"))])
    assert run.code == 78
    assert "promotions of A1 and A2 meet" in run.errors
    mixed = engage.run(engage.snapshot([engage.subscription(1, aid="A2")]))
    assert mixed.code == 78
    assert ids(engage) == []


def test_streams_of_other_names_take_the_roles(engage: Engage) -> None:
    streams = {"deals": {"role": "promotions"}}
    renamed = [message | {"stream": "deals"} for message in stream("promotions", shop.promotion("PR1"))]
    run = engage.run([*renamed, *stream("terms", shop.term("TM1"))], streams=streams)
    assert run.code == 0
    assert any("left alone, for no role is set for them: terms" in line for line in run.warnings)
    assert (ids(engage), ids(engage, "terms")) == (["PR1"], [])


# What a run makes of them


def test_a_run_writes_the_offers_says_so_once_and_leaves_the_file_alone(engage: Engage) -> None:
    folder = engage.folder / "data"
    engage.config |= {"data_sources_path": str(folder), "checkout_url": shop.TEMPLATE}
    nothing = engage.run(engage.snapshot(engage.subscriptions(1)))
    assert any("data_sources_path: no promotion has come yet" in line for line in nothing.warnings)
    assert not folder.exists()
    given = [
        *stream("promotions", shop.promotion("PR1"), shop.promotion("PR2", end_date="2026-03-28T23:00:00+00:00")),
        *stream("terms", shop.term("TM1")),
    ]
    dry = engage.run(given, dry_run=True)
    assert (dry.code, folder.exists(), ids(engage)) == (0, False, [])
    run = engage.run(given)
    path = folder / "offers.csv"
    assert f"offers: 2 are valid and the file is a new one; upload it in Pulse as a data source: {path}" in run.log
    assert [row["code"] for row in shop.read(path)] == ["PR1!", "PR2!"]
    report = max((engage.folder / "runs").glob("*.html"), key=lambda one: one.stat().st_mtime_ns)
    assert f"upload {path}, which has changed; 2 offers are valid" in report.read_text(encoding="utf-8").replace(
        "<wbr>", ""
    )
    before = path.stat()
    again = engage.run(engage.snapshot(engage.subscriptions(1)))
    assert "upload it" not in again.log
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    (told,) = engage.summaries[-1]["data_sources"]
    assert (told["location"], told["rows"], told["changed"]) == (str(path), 2, False)
    engage.run(engage.snapshot(engage.subscriptions(1)), as_of="2026-03-28T23:00:00+00:00")
    assert [row["code"] for row in shop.read(path)] == ["PR1!"], "one has ended overnight"


def test_an_unknown_promotion_is_warned_of_by_the_run_and_its_segment_told_nobody(engage: Engage) -> None:
    segments = [{"name": "a", "filters": [{"promotion": "PR1"}]}, {"name": "b", "filters": [{"promotion": "PR11"}]}]
    messages = [*stream("promotions", shop.promotion("PR1")), *engage.snapshot(engage.subscriptions(2))]
    run = engage.run(messages, segments=segments)
    assert run.code == 0
    assert len([line for line in run.warnings if "the promotion PR11, which the ledger does not know" in line]) == 1
    assert not any("the promotion PR1," in line for line in run.warnings)
    sent = engage.sent()
    assert {row["segment_a"] for row in sent.values()} == {"true"}
    assert {row["segment_b"] for row in sent.values()} == {"false"}
    offers = answer(engage, "promo", "offers")
    assert [one["code"] for one in offers["offers"]] == ["PR1!"]


def test_the_tables_of_the_ledger_are_those_that_the_catalogue_keeps(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.duckdb", memory_limit="100MB")
    for role, kept in KEPT.items():
        found = ledger.connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [role]
        ).fetchall()
        assert dict(found) == dict(kept.types)
    ledger.close()


def test_a_ledger_of_version_3_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.duckdb"
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "MIGRATIONS", MIGRATIONS[:3])
        patch.setattr(ledger_module, "VERSION", 3)
        old = Ledger(path, memory_limit="100MB")
        old.connection.execute("INSERT INTO subscriptions (user_id) VALUES ('u1')")
        assert "promotions" not in old.tables()
        old.close()
    new = Ledger(path, memory_limit="100MB")
    assert {*KEPT, "assignments"} <= set(new.tables())
    assert new.count("SELECT count(*) FROM subscriptions") == 1
    new.close()
