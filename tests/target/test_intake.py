"""What comes down the pipe: RECORD and BATCH end in the same ledger, other streams are left alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from tests.target.conftest import Engage, Record

INPUT_REFUSED, CONFIG_REFUSED = 65, 78
AWKWARD = ["a,b", 'say "so"', "two\nlines", "cr\rhere", " lead", "NULL", "日本 é", "", "\x00", "nul\x00inside"]


def awkward_records(engage: Engage) -> list[Record]:
    return [
        engage.subscription(
            n, aid="APP", promo_code=text, modify_time=f"2026-03-{n + 10}T10:00:00+00:00", total_charged=n / 4
        )
        for n, text in enumerate(AWKWARD)
    ]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz"])
def test_batch_files_end_in_the_same_ledger_as_records_and_are_gone_then(engage: Engage, form: str) -> None:
    records = awkward_records(engage)
    by_record = type(engage)(engage.folder / "record")
    by_record.folder.mkdir()
    assert by_record.run(by_record.snapshot(records)).code == 0
    messages = engage.batch(records, form, version=1)
    run = engage.run(messages)
    assert (run.code, len(run.states)) == (0, 1)
    assert list((engage.folder / "batch").iterdir()) == []
    assert engage.told() == by_record.told()
    assert engage.sent() == by_record.sent()


def test_nul_is_dropped(engage: Engage) -> None:
    engage.run(engage.snapshot(awkward_records(engage)))
    assert engage.sent()["u8"]["promo_code"] == "none"
    assert engage.sent()["u9"]["promo_code"] == "nulinside"


def test_nothing_to_work_with_is_left_beside_the_ledger(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3)))
    assert {path.name for path in engage.folder.iterdir()} == {"config-0.json", "ledger.duckdb", "ingest", "runs"}


@pytest.mark.parametrize("form", ["record", "parquet", "jsonl"])
def test_of_two_rows_of_a_subscription_the_later_wins(engage: Engage, form: str) -> None:
    records = [engage.subscription(term_name="old"), engage.subscription(2), engage.subscription(term_name="new")]
    engage.run(engage.messages(records) if form == "record" else engage.batch(records, form))
    assert engage.sent()["u1"]["term_name"] == "new"
    assert engage.query("SELECT count(*) FROM subscriptions") == [(2,)]


def test_of_two_files_the_later_wins(engage: Engage) -> None:
    first = engage.batch([engage.subscription(1, term_name="old"), engage.subscription(2)], "parquet")
    second = engage.batch([engage.subscription(1, term_name="new"), engage.subscription(3)], "parquet")
    engage.run([*first[:-1], *second])
    assert engage.sent()["u1"]["term_name"] == "new"


def test_an_increment_keeps_what_it_does_not_mention(engage: Engage) -> None:
    engage.run(engage.messages(engage.subscriptions(5)))
    engage.run(engage.messages([engage.subscription(2, renewed=True)]))
    engage.run(engage.messages([engage.subscription(n, promo_code="P") for n in (1, 2, 3, 9)]))
    assert engage.query("SELECT count(*), count(promo_code) FROM subscriptions") == [(6, 4)]
    assert set(engage.sent()) == {"u1", "u2", "u3", "u9"}


def test_streams_without_a_role_are_named_in_one_warning_and_left_alone(engage: Engage) -> None:
    batch = engage.folder / "other.jsonl"
    batch.write_text("{}\n", encoding="utf-8")
    announced = {"type": "BATCH", "encoding": {"format": "jsonl"}, "manifest": [batch.as_uri()], "stream": "resources"}
    other = [
        *engage.snapshot([{"id": "1"}], stream="resources", properties=["id"], state=None), announced,
        *engage.snapshot([{"id": "2"}], stream="offers", properties=["id"], state=None),
    ]  # fmt: skip
    run = engage.run([*other, *engage.snapshot(engage.subscriptions(2))])
    assert run.code == 0
    assert [line for line in run.warnings if "offers, resources" in line] == run.warnings
    assert set(engage.sent()) == {"u1", "u2"}
    assert batch.exists()


def test_a_role_can_be_given_to_a_stream_of_another_name(engage: Engage) -> None:
    config = {"streams": {"subs": {"role": "subscriptions"}}}
    run = engage.run(engage.snapshot(engage.subscriptions(2), stream="subs"), **config)
    assert run.code == 0
    assert len(engage.sent()) == 2


@pytest.mark.parametrize("form", ["record", "parquet", "jsonl.gz"])
def test_a_stream_map_is_heard(engage: Engage, form: str) -> None:
    records = engage.subscriptions(4, term_name="secret", promo_code="P")
    stream_maps = {
        "subscription_log": {"term_name": "None", "user_id": "'x-' + user_id", "__filter__": "user_id != 'u3'"}
    }
    messages = engage.messages(records) if form == "record" else engage.batch(records, form)
    run = engage.run(messages, stream_maps=stream_maps)
    assert run.code == 0
    assert set(engage.sent()) == {"x-u1", "x-u2", "x-u4"}
    assert {row["term_name"] for row in engage.sent().values()} == {"none"}
    assert {row["access_expiration_date"] for row in engage.sent().values()} == {"2026-04-30"}
    assert {row["promo_code"] for row in engage.sent().values()} == {"P"}


def test_values_as_other_taps_write_them(engage: Engage) -> None:
    record = engage.subscription(
        days_subscribed="86", total_charged="29.97", auto_renew="TRUE", access_expiration_date="2026-04-01 00:30:00+02",
        start_date="", end_date="2026-03-05", create_date="2026-01-01T23:30:00.123-05:30", term_name={"nested": [1]},
    )  # fmt: skip
    assert engage.run(engage.messages([record])).code == 0
    row = engage.sent()["u1"]
    assert [row[name] for name in ("days_subscribed", "total_charged", "auto_renew")] == ["86", "29.97", "true"]
    assert (row["access_expiration_date"], row["start_date"]) == ("2026-03-31", "9999-12-31")
    assert (row["end_date"], row["create_date"]) == ("2026-03-05", "2026-01-02")
    assert row["term_name"] == '{"nested":[1]}'


def test_a_record_of_nine_megabytes_is_taken_and_one_too_large_is_named(engage: Engage) -> None:
    ignored = {"notes": "x" * 9_000_000}
    assert engage.run(engage.messages([engage.subscription() | ignored])).code == 0
    run = engage.run(engage.messages([engage.subscription(2) | {"notes": "x" * 36_000_000}]))
    assert run.code == INPUT_REFUSED
    assert "maximum_object_size" in run.errors
    assert len(run.errors) < 1000


def test_rows_that_name_no_reader_or_no_subscription_are_counted(engage: Engage) -> None:
    records = [engage.subscription(), engage.subscription(2, ""), {"user_id": "u3"}, engage.subscription(4, " \n")]
    assert engage.run(engage.messages(records)).code == 0
    assert set(engage.sent()) == {"u1"}
    assert engage.summaries[-1]["rows"] == {"read": 4, "rejected": 3}


@pytest.mark.parametrize(
    ("form", "column", "value"),
    [
        ("record", "days_subscribed", "many"),
        ("record", "access_expiration_date", "31/12/2026"),
        ("jsonl", "auto_renew", "perhaps"),
    ],
)
def test_a_value_that_is_not_of_its_type_counts_as_absent_and_stops_no_night(
    engage: Engage, column: str, value: str, form: str
) -> None:
    records = [engage.subscription(1), engage.subscription(2, **{column: value})]
    run = engage.run(engage.messages(records) if form == "record" else engage.batch(records, form))
    assert (run.code, len(run.states)) == (0, 1)
    assert any(f"subscriptions: 1 value(s) of {column} are no " in line for line in run.warnings)
    assert value not in run.log
    assert engage.summaries[-1]["invalid_values"] == {"subscriptions": {column: 1}}
    assert engage.sent()["u2"][column] in {"-1", "9999-12-31", "false"}
    assert engage.query("SELECT user_id, trait FROM invalid") == [("u2", column)]
    assert engage.query("SELECT subscription_id, invalid_properties FROM subscriptions ORDER BY 1") == [
        ("RC000001", None), ("RC000002", column),
    ]  # fmt: skip
    if form == "jsonl":
        assert list((engage.folder / "batch").iterdir()) == []


def refused(engage: Engage, messages: list[dict[str, object]] | bytes, code: int = INPUT_REFUSED) -> str:
    """Nothing goes out, and no traceback: one line says why."""
    before = engage.files
    run = engage.run(messages)
    assert (run.code, run.states, engage.files) == (code, [], before)
    assert "Traceback" not in run.log
    assert len(run.errors.splitlines()) == 1
    return run.errors


@pytest.mark.parametrize("column", ["subscription_id", "user_id"])
def test_a_schema_without_a_key_is_refused(engage: Engage, column: str) -> None:
    properties = {"subscription_id", "user_id", "term_name"} - {column}
    assert f"its schema has no {column}" in refused(engage, engage.messages([], properties=properties))


def test_batch_files_that_cannot_be_had_are_refused_and_stay(engage: Engage) -> None:
    garbage = engage.folder / "garbage.parquet"
    garbage.write_bytes(b"PAR1 not really")
    lame = engage.folder / "lame.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 'RC1' AS subscription_id) TO '{lame}'")
    half = engage.folder / "half.jsonl"
    half.write_text('{"subscription_id": "RC1", "user_id": "u1"}\n{"subscription_id": "RC2", "us', encoding="utf-8")

    def announce(url: str, form: str) -> list[dict[str, object]]:
        batch = {"type": "BATCH", "stream": "subscription_log", "encoding": {"format": form}, "manifest": [url]}
        return [engage.schema(), batch, {"type": "STATE", "value": {"a": 1}}]

    assert "there is no file /no/where.parquet" in refused(engage, announce("file:///no/where.parquet", "parquet"))
    assert "does not lie on this machine" in refused(engage, announce("s3://bucket/x.parquet", "parquet"))
    assert "'avro' is not known" in refused(engage, announce(garbage.as_uri(), "avro"))
    assert "garbage.parquet: holds what cannot be read" in refused(engage, announce(garbage.as_uri(), "parquet"))
    assert "has no column user_id" in refused(engage, announce(lame.as_uri(), "parquet"))
    assert "half.jsonl: holds what cannot be read" in refused(engage, announce(half.as_uri(), "jsonl"))
    assert garbage.exists()
    assert lame.exists()
    assert half.exists()


def test_a_line_that_is_cut_off_is_refused_without_being_shown(engage: Engage) -> None:
    lines = engage.lines(engage.messages([engage.subscription(1, "person@example.com")], state=None))
    said = refused(engage, lines[:-20])
    assert "a line is no JSON" in said
    assert "person@example.com" not in said
    assert "a line is no Singer message" in refused(engage, b'["person@example.com"]\n')
    assert "standard input" in refused(engage, b'{"type": "RECORD"\xff\xfe}\n')


def test_records_before_their_schema_are_refused(engage: Engage) -> None:
    assert "before" in refused(engage, engage.lines(engage.messages([engage.subscription()])[1:]))


def test_a_snapshot_that_breaks_off_is_not_sent(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(20)))
    before = engage.dump()
    said = refused(engage, engage.snapshot(engage.subscriptions(19, promo_code="X"), complete=False))
    assert "broke off in the middle of a snapshot" in said
    assert engage.dump() == before


def test_rows_that_come_after_their_snapshot_was_called_complete_open_it_again(engage: Engage) -> None:
    start, *rows, end, state = engage.snapshot(engage.subscriptions(20))
    assert "broke off" in refused(engage, [start, end, *rows, state])
    assert engage.run([start, end, *rows, end, state]).code == 0


def test_two_applications_do_not_share_a_ledger(engage: Engage) -> None:
    engage.run(engage.messages([engage.subscription(1, aid="ONE")]))
    before = engage.dump()
    assert "ONE and TWO meet" in refused(engage, engage.messages([engage.subscription(2, aid="TWO")]), CONFIG_REFUSED)
    assert engage.dump() == before
    assert engage.run(engage.messages([engage.subscription(2)])).code == 0


def test_a_stream_of_subscriptions_beside_a_snapshot_keeps_its_own(engage: Engage) -> None:
    config = {"streams": {"subscription_log": {"role": "subscriptions"}, "more": {"role": "subscriptions"}}}
    engage.run(
        [*engage.snapshot(engage.subscriptions(20)), *engage.messages([engage.subscription(99)], stream="more")],
        **config,
    )
    second = [*engage.snapshot(engage.subscriptions(20)), *engage.messages([], stream="more")]
    assert engage.run(second, **config).code == 0
    assert engage.query("SELECT count(*) FROM subscriptions") == [(21,)]
    assert len(engage.files) == 1


def test_personal_columns_that_a_tap_sends_appear_nowhere(engage: Engage) -> None:
    canary = "canary-7f3a"
    personal = {"user_email": f"{canary}@example.com", "first_name": canary, "url": f"https://x.example/{canary}"}
    records = [record | personal for record in engage.subscriptions(30)]
    properties = [*engage.schema()["schema"]["properties"], *personal]
    runs = [
        engage.run(engage.snapshot(records, properties=properties)),
        engage.run(engage.snapshot(records[:3], properties=properties)),
        engage.run(engage.lines(engage.snapshot(records, properties=properties))[:-100]),
        engage.run(engage.snapshot([records[0] | {"days_subscribed": "x"}], properties=properties)),
    ]
    assert [run.code for run in runs] == [0, 80, 65, 80]
    assert not any(canary in run.log + run.out for run in runs)
    left = [path for path in engage.folder.rglob("*") if path.is_file()]
    assert engage.ledger in left
    assert [path for path in left if canary.encode() in path.read_bytes()] == []
    assert canary in json.dumps(records)  # so the search can find what is there
