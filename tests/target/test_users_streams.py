"""Streams of other taps with one row a reader: their properties become traits beside those of the subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pytest

if TYPE_CHECKING:
    from tests.target.conftest import Engage, Message

LOG = {"subscription_log": {"role": "subscriptions"}}
CRM = {
    "role": "users",
    "user_id": "id",
    "traits": ["tier", "visits", "vip", "since", {"name": "score", "type": "number"}],
}
STREAMS = {"streams": LOG | {"crm": CRM}}
TYPES = {
    "id": {"type": "string"}, "tier": {"type": ["string", "null"]}, "visits": {"type": ["integer", "null"]},
    "vip": {"type": ["boolean", "null"]}, "since": {"type": ["string", "null"], "format": "date-time"},
    "score": {"type": ["string", "null"]}, "email": {"type": ["string", "null"]},
}  # fmt: skip


def reader(number: int, **values: object) -> dict[str, Any]:
    return {
        "id": f"u{number}", "tier": "gold", "visits": 7, "vip": True, "since": "2026-01-31T23:30:00Z", "score": "1.5",
        "email": f"u{number}@example.com",
    } | values  # fmt: skip


def crm(*rows: dict[str, Any], version: int | None = 1, lacking: str = "") -> list[Message]:
    types = {name: kind for name, kind in TYPES.items() if name != lacking}
    versions = {} if version is None else {"version": version}
    schema = {"type": "SCHEMA", "stream": "crm", "key_properties": ["id"], "schema": {"properties": types}}
    body = [{"type": "RECORD", "stream": "crm", "record": row} | versions for row in rows]
    end = [{"type": "ACTIVATE_VERSION", "stream": "crm"} | versions] if versions else []
    return [schema, *body, *end, {"type": "STATE", "value": {"crm": 1}}]


def both(engage: Engage, subscriptions: int, *rows: dict[str, Any]) -> list[Message]:
    return [*crm(*rows)[:-1], *engage.snapshot(engage.subscriptions(subscriptions))]


def test_traits_of_both_meet_in_one_row(engage: Engage) -> None:
    run = engage.run(both(engage, 2, reader(1)), **STREAMS)
    assert (run.code, len(run.states)) == (0, 1), run.log
    sent = engage.sent()
    assert {name: sent["u1"][name] for name in ("tier", "visits", "vip", "since", "score", "subscription_id")} == {
        "tier": "gold", "visits": "7", "vip": "true", "since": "2026-01-31", "score": "1.5",
        "subscription_id": "RC000001",
    }  # fmt: skip
    assert "email" not in sent["u1"]
    assert (sent["u2"]["tier"], sent["u2"]["visits"]) == ("none", "-1")
    assert engage.summaries[-1]["users_streams"]["crm"]["came"] == 1


def test_a_date_is_that_of_the_time_zone(engage: Engage) -> None:
    engage.run(crm(reader(1), reader(2, since="2026-01-31")), **STREAMS, timezone="Europe/Amsterdam")
    assert [engage.sent()[user]["since"] for user in ("u1", "u2")] == ["2026-02-01", "2026-01-31"]


def test_a_property_may_be_called_as_columns_of_our_own_are(engage: Engage) -> None:
    names = ("row", "row_0", "moment", "slice", "fingerprints")
    schema = {"properties": {name: {"type": ["string", "null"]} for name in ("id", *names)}}
    record = {"id": "u1"} | {name: f"its {name}" for name in names}
    given = [
        {"type": "SCHEMA", "stream": "crm", "key_properties": ["id"], "schema": schema},
        {"type": "RECORD", "stream": "crm", "record": record},
        *engage.snapshot(engage.subscriptions(2)),
    ]
    streams = {"streams": LOG | {"crm": {"role": "users", "user_id": "id", "traits": list(names)}}}
    for _ in range(2):
        run = engage.run(given, **streams)
        assert run.code == 0, run.log
    assert {name: engage.sent()["u1"][name] for name in names} == {name: f"its {name}" for name in names}
    assert len(engage.files) == 1


def test_each_stream_may_come_in_a_run_of_its_own(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(2)), **STREAMS)
    engage.run(crm(reader(1), reader(9)), **STREAMS)
    assert set(engage.sent()) == {"u1", "u9"}
    assert engage.query("SELECT tier, subscription_id FROM delivered WHERE user_id = 'u1'") == [("gold", "RC000001")]
    assert engage.query("SELECT tier, subscription_id FROM delivered WHERE user_id = 'u9'") == [("gold", None)]
    assert "0 changes" in engage.run(engage.snapshot(engage.subscriptions(2)), **STREAMS).log
    assert "0 changes" in engage.run(crm(reader(1), reader(9)), **STREAMS).log


def test_what_vanished_from_one_stream_is_cleared_and_the_other_stays(engage: Engage) -> None:
    settings = STREAMS | {"brake_min_rows_fraction": 0, "brake_max_clear_fraction": 1}
    engage.run(both(engage, 2, reader(1), reader(2)), **STREAMS)
    run = engage.run(crm(reader(2)), **settings)
    assert run.code == 0, run.log
    (row,) = engage.sent().values()
    assert (row["user_id"], row["tier"], row["vip"], row["subscription_id"]) == ("u1", "none", "false", "RC000001")
    engage.run(engage.snapshot(engage.subscriptions(1)), **settings)
    (row,) = engage.sent().values()
    assert (row["user_id"], row["tier"], row["subscription_id"]) == ("u2", "gold", "none")


def test_without_a_version_rows_are_only_added(engage: Engage) -> None:
    engage.run(crm(reader(1), reader(2), version=None), **STREAMS)
    engage.run(crm(reader(2, tier="silver"), version=None), **STREAMS)
    assert {user: row["tier"] for user, row in engage.sent().items()} == {"u2": "silver"}
    assert engage.query("SELECT count(*) FROM users_crm") == [(2,)]


def test_a_stream_that_leaves_the_settings_is_cleared(engage: Engage) -> None:
    engage.run(both(engage, 2, reader(1)), **STREAMS)
    engage.run(engage.snapshot(engage.subscriptions(2)), streams=LOG)
    assert {user: row["tier"] for user, row in engage.sent().items()} == {"u1": "none"}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_batches_come_to_the_same(engage: Engage, form: str) -> None:
    path = engage.folder / f"rows.{form}"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 'u1' AS id, 'gold' AS tier, 7::BIGINT AS visits, true AS vip, "
            "'2026-01-31 23:30:00+00'::TIMESTAMPTZ AS since, 1.5::DECIMAL(9, 2) AS score) "
            f"TO '{path}' (FORMAT {'json' if form == 'jsonl' else form})"
        )
    start, *_, end = crm(version=None)
    batch = {"type": "BATCH", "stream": "crm", "encoding": {"format": form}, "manifest": [path.as_uri()]}
    run = engage.run([start, batch, end], **STREAMS)
    assert run.code == 0, run.log
    row = engage.sent()["u1"]
    assert (row["tier"], row["visits"], row["vip"], row["since"]) == ("gold", "7", "true", "2026-01-31")
    assert float(row["score"]) == 1.5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"visits": "many"}, "visits: no number"), ({"vip": "maybe"}, "vip: no boolean"),
        ({"since": "31/01/2026"}, "since: no date"), ({"score": "NaN"}, "score: no number"),
        ({"tier": "x" * 1001}, "tier: longer than 1000 characters"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_counts_as_absent(engage: Engage, values: dict[str, Any], reason: str) -> None:
    run = engage.run(crm(reader(1, **values), reader(2)), **STREAMS)
    assert run.code == 0, run.log
    assert f"1 value(s) cannot be sent and count as absent: {reason}" in run.log
    (name,) = values
    assert engage.sent()["u1"][name] in {"none", "-1", "false", "9999-12-31"}
    assert engage.query("SELECT user_id, trait FROM invalid") == [("u1", name)]


def test_the_brake_watches_such_a_stream_too(engage: Engage) -> None:
    rows = [reader(number) for number in range(1, 41)]
    engage.run(crm(*rows), **STREAMS)
    small = engage.run(crm(*rows[:20]), **STREAMS)
    assert (small.code, small.states) == (80, [])
    assert "crm is complete with 20 rows, where the ledger holds 40" in small.errors
    lacking = engage.run(crm(*rows, lacking="tier"), **STREAMS)
    assert (lacking.code, lacking.states) == (80, [])
    assert "crm has no column for tier" in lacking.errors


def test_another_type_by_setting_has_its_consequence(engage: Engage) -> None:
    engage.run(crm(reader(1, score="x")), **STREAMS)
    assert engage.sent()["u1"]["score"] == "-1"
    traits = [*CRM["traits"][:-1], {"name": "score", "type": "string"}]
    engage.run(crm(reader(1, score="x")), streams=LOG | {"crm": CRM | {"traits": traits}})
    assert engage.sent()["u1"]["score"] == "x"


def test_rows_without_a_reader_are_left_out(engage: Engage) -> None:
    run = engage.run(crm(reader(1), {"id": " ", "tier": "gold"}), **STREAMS)
    assert (run.code, set(engage.sent())) == (0, {"u1"})
    assert engage.summaries[-1]["rows"] == {"read": 2, "rejected": 1}
