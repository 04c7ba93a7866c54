"""What other taps write: no form of it ends in a traceback, shows a user, or stops a night for a single row."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from tests.target import shop
from tests.target.conftest import COMMAND, STREAM
from tests.target.test_catalogue import stream

if TYPE_CHECKING:
    from tests.target.conftest import Engage, Message

CASES = Path(__file__).with_name("cases")
LOG = {STREAM: {"role": "subscriptions"}}
PERSON = "person@example.com"
SCHEMA = b'{"type":"SCHEMA","stream":"crm","schema":{"properties":{"id":{"type":"string"}}},"key_properties":["id"]}\n'
GOOD = b'{"type":"RECORD","stream":"crm","record":{"id":"u1","tier":"gold"}}\n'


def crm(*traits: Any) -> dict[str, Any]:  # noqa: ANN401 - as the setting
    return {"streams": LOG | {"crm": {"role": "users", "user_id": "id", "traits": list(traits)}}}


def case(name: str) -> bytes:
    (path,) = CASES.glob(f"{name}*")
    return path.read_bytes()


def sent(engage: Engage) -> dict[str, str]:
    return {row["user_id"]: row["tier"] for row in engage.sent().values()}


# What cannot be read


def test_a_blank_line_of_another_tap_is_skipped(engage: Engage) -> None:
    run = engage.run(case("13-refused-other-tap-blank-line"), **crm("tier"))
    assert (run.code, sent(engage)) == (0, {"u1": "gold"}), run.log


def test_latin_1_is_named_under_the_locale_of_plain_ascii(engage: Engage) -> None:
    config = engage.folder / "config.json"
    config.write_text(json.dumps(engage.config | crm("tier")), encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*COMMAND, "--config", str(config)],
        input=case("13-traceback-other-tap-latin1"), capture_output=True, check=False, env=environment, timeout=120,
    )  # fmt: skip
    log = done.stderr.decode()
    assert (done.returncode, done.stdout, engage.files) == (65, b"", [])
    assert "standard input, line 2: a line is not UTF-8 (byte 64 of it). Let the tap write UTF-8." in log
    assert "Traceback" not in log
    assert "Caf" not in log


BROKEN = {
    "unknown type": (case("13-traceback-other-tap-unknown-type"), "line 2: a message is of type LOG, which Singer"),
    "personal type": (SCHEMA + b'{"type":"%s"}\n' % PERSON.encode(), "line 2: a message is of another type"),
    "type is a list": (b'{"type":["RECORD"]}\n', "of another type"),
    "UTF-16": (SCHEMA.decode().encode("utf-16"), "line 1: the text is UTF-16 and not UTF-8"),
    "UTF-16 without a mark": (SCHEMA.decode().encode("utf-16-le"), "the text is UTF-16 and not UTF-8"),
    "truncated": (SCHEMA + GOOD[:-10], "line 2: a line is no JSON"),
    "words": (b"Starting the tap for %s\n" % PERSON.encode(), "line 1: a line is no JSON"),
    "no properties": (b'{"type":"SCHEMA","stream":"crm","schema":{}}\n', "has no object 'properties'"),
    "schema is a list": (b'{"type":"SCHEMA","stream":"crm","schema":[]}\n', "has no member 'schema'"),
    "odd property": (b'{"type":"SCHEMA","stream":"crm","schema":{"properties":{"id":true}}}\n', "object 'properties'"),
    "odd keys": (SCHEMA.replace(b'["id"]', b'"id"'), "'key_properties' of a SCHEMA are no list"),
    "no stream": (b'{"type":"RECORD","record":{}}\n', "a RECORD has no member 'stream'"),
    "no version": (SCHEMA + b'{"type":"ACTIVATE_VERSION","stream":"crm"}\n', "has no member 'version'"),
    "no manifest": (SCHEMA + b'{"type":"BATCH","stream":"crm","encoding":{}}\n', "a BATCH has no member 'manifest'"),
    "odd manifest": (
        SCHEMA + b'{"type":"BATCH","stream":"crm","encoding":{"format":"jsonl"},"manifest":[1]}\n', "names no format"
    ),
    "odd encoding": (SCHEMA + b'{"type":"BATCH","stream":"crm","encoding":{},"manifest":[]}\n', "names no format"),
    "no value": (b'{"type":"STATE"}\n', "a STATE has no member 'value'"),
    "unknown stream": (b'{"type":"ACTIVATE_VERSION","stream":"crm","version":1}\n', "came before its SCHEMA"),
    "nested": (SCHEMA + b'{"type":"RECORD","stream":"crm","record":{"id":' + b"[" * 99_999 + b"\n", "nested too deep"),
    "huge number": (
        SCHEMA + b'{"type":"RECORD","stream":"crm","record":{"id":' + b"9" * 9999 + b"}}\n", "a number of too many"
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", BROKEN)
def test_what_is_no_message_is_named_in_one_sentence_without_a_person(engage: Engage, form: str) -> None:
    given, words = BROKEN[form]
    run = engage.run(given, **crm("tier"))
    assert (run.code, run.states, engage.files) == (65, [], []), run.log
    (error,) = run.errors.splitlines()
    assert words in error
    assert "Traceback" not in run.log
    assert PERSON not in run.log


@pytest.mark.parametrize(
    "given",
    [
        b"\xef\xbb\xbf" + SCHEMA + GOOD, (SCHEMA + GOOD).replace(b"\n", b"\r\n"), (SCHEMA + GOOD).rstrip(b"\n"),
        b"\n \n\t\n" + SCHEMA + b"\r\n" + GOOD + b"\n\n", SCHEMA.replace(b',"key_properties":["id"]', b"") + GOOD,
        SCHEMA + GOOD + SCHEMA.replace(b'"string"', b'"number"') + GOOD.replace(b"gold", b"x").replace(b'"u1"', b"7"),
    ],
    ids=["BOM", "CRLF", "no end of the last line", "blank lines", "no keys", "another schema"],
)  # fmt: skip
def test_other_ways_to_write_the_same_are_read(engage: Engage, given: bytes) -> None:
    given = given.replace(b'"id":{"type":"string"}', b'"id":{"type":"string"},"tier":{"type":"string"}')
    given = given.replace(b'"id":{"type":"number"}', b'"id":{"type":"number"},"tier":{"type":"string"}')
    run = engage.run(given, **crm("tier"))
    assert run.code == 0, run.log
    assert sent(engage)["u1"] == "gold"


# Ids


def test_damaged_ids_of_another_tap_are_rejected_and_counted(engage: Engage) -> None:
    run = engage.run(case("7-id-float-from-another-tap"), **crm("tier"))
    assert (run.code, sent(engage)) == (0, {"12345": "gold"}), run.log
    assert engage.summaries[-1]["rows"] == {"read": 3, "rejected": 2}
    assert any("crm: 2 of 3 row(s) cannot be used and are left out" in line for line in run.warnings)


IDS = [" u1 ", "\tu1\r\n", "\u200bu1", "\ufeffu1\u00a0"]
DAMAGED = [
    "1.0E+14",
    12345.0,
    "#N/A",
    '="0013"',
    "null",
    "undefined",
    ["a"],
    {"a": 1},
    True,
    None,
    "",
    "a\x00b",
    "x" * 300,
]


@pytest.mark.parametrize("role", ["users", "subscriptions"])
def test_ids_are_trimmed_and_a_snapshot_with_damaged_ones_clears_nobody(engage: Engage, role: str) -> None:
    if role == "users":
        name, config = "crm", crm("tier")
        rows = [{"id": f"u{n}", "tier": "gold"} for n in range(1, 30)]
        bad = [{"id": one, "tier": "gold"} for one in DAMAGED]
        trimmed: list[dict[str, Any]] = [{"id": one, "tier": "blue"} for one in IDS]
        properties = ["id", "tier"]
    else:
        name, config = STREAM, {}
        rows = engage.subscriptions(29, term_name="gold")
        bad = [engage.subscription(1) | {"user_id": one} for one in DAMAGED]
        bad += [engage.subscription(1) | {"subscription_id": one} for one in DAMAGED]
        trimmed = [engage.subscription(1, one, term_name="blue") for one in IDS]
        properties = list(engage.schema()["schema"]["properties"])
    first = engage.run(engage.snapshot(rows, stream=name, properties=properties), **config)
    assert first.code == 0, first.log
    kept = [
        *rows[1:20],
        *trimmed,
        *bad,
    ]  # 9 users are missing, which would be too many for the brake, and are not cleared
    run = engage.run(engage.snapshot(kept, stream=name, properties=properties), **config, brake_min_rows_fraction=0)
    if role == "subscriptions":  # 26 rows are no single ones any more
        assert run.code == 80
        assert "26 rows of subscriptions cannot be used" in run.errors
        run = engage.run(
            engage.snapshot([*kept[:-15]], stream=name, properties=properties), **config, brake_min_rows_fraction=0
        )
    assert run.code == 0, run.log
    assert list(engage.sent()) == ["u1"]
    assert engage.sent()["u1"]["tier" if role == "users" else "term_name"] == "blue"
    assert engage.summaries[-1]["users"]["cleared"] == 0


def test_a_snapshot_that_counts_as_complete_in_spite_of_rejects_would_be_noticed(engage: Engage) -> None:
    """The broken double: a damaged id clears the user whose it is."""
    engage.run(engage.snapshot(engage.subscriptions(29)))
    double = (
        "from target_recurly_engage.intake import Intake\n"
        "real = Intake._reject\n"
        "def reject(self, count, ids):\n    real(self, count, ids); self.rows -= count; self.rejected -= count\n"
        "Intake._reject = reject"
    )
    rows = [*engage.subscriptions(28), engage.subscription(29, "12345.0")]
    assert engage.run(engage.snapshot(rows), script=double).code == 0
    assert engage.summaries[-1]["users"]["cleared"] == 1


# Dates, numbers, booleans


def test_dates_that_are_none_of_another_tap_are_invalid_values(engage: Engage) -> None:
    run = engage.run(case("4-date-infinity-from-another-tap"), **crm("seen"))
    assert (run.code, {row["seen"] for row in engage.sent().values()}) == (0, {"9999-12-31"}), run.log
    assert engage.summaries[-1]["invalid"] == {"seen: no date": 2}


NO_DATES = [
    "infinity", "-infinity", "epoch", "0001-12-31 (BC)", "0001-01-01T00:00:00Z", "25-03-01", "1899-12-31",
    "10000-01-01", "99999-01-01 00:00:00+00", "2025-01-01 00:00:00+99", "2025-01-01T00:00:00-99:00", "2025-02-30",
    "31/12/2026", "NaN", "20250101", "2025-01-01 00:00:00 PST", ["2025-01-01"], {"a": 1}, 1735689600, True,
]  # fmt: skip
DATES = {
    "1900-01-01": "1900-01-01", "2025-01-01T00:30:00+02:00": "2024-12-31", "2025-01-01 00:30:00 +0200": "2024-12-31",
    "2025-01-01T10:00:00.123456Z": "2025-01-01", "2025-01-01 10:00": "2025-01-01", "9999-12-31": "9999-12-31",
}  # fmt: skip


@pytest.mark.parametrize("role", ["users", "subscriptions"])
def test_dates_out_of_bounds_are_never_sent_and_stop_no_night(engage: Engage, role: str) -> None:
    values = [*NO_DATES[:15], *DATES, *NO_DATES[15:]]
    if role == "users":
        records: list[dict[str, Any]] = [{"id": f"u{n}", "seen": one} for n, one in enumerate(values)]
        types = {"id": {"type": "string"}, "seen": {"type": "string", "format": "date-time"}}
        messages: list[Message] = [{"type": "SCHEMA", "stream": "crm", "schema": {"properties": types}}]
        messages += [{"type": "RECORD", "stream": "crm", "record": one} for one in records]
        key, config = "seen", crm("seen")
    else:
        messages = engage.messages([engage.subscription(n, end_date=one) for n, one in enumerate(values)])
        messages += engage.messages([engage.subscription(n) for n in range(100, 500)])
        key, config = "end_date", {}
    run = engage.run(messages, **config)
    assert run.code == 0, run.log
    found = {user: row[key] for user, row in engage.sent().items()}
    assert [found[f"u{n}"] for n, one in enumerate(values) if str(one) not in DATES] == ["9999-12-31"] * len(NO_DATES)
    assert {str(one): found[f"u{n}"] for n, one in enumerate(values) if isinstance(one, str) and one in DATES} == DATES
    assert engage.summaries[-1]["invalid"] == {f"{key}: no date": len(NO_DATES)}
    assert engage.query(f"SELECT count(*) FROM invalid WHERE trait = '{key}'") == [(len(NO_DATES),)]


def test_a_moment_that_is_in_year_10000_elsewhere_is_not_sent(engage: Engage) -> None:
    late = engage.subscription(1, end_date="9999-12-31T23:59:59+00:00", start_date="1900-01-01T00:00:00+00:00")
    engage.run(engage.messages([late]), timezone="Asia/Tokyo")
    assert (engage.sent()["u1"]["end_date"], engage.sent()["u1"]["start_date"]) == ("9999-12-31", "1900-01-01")
    assert engage.summaries[-1]["invalid"] == {"end_date: no date": 1}
    engage.run(engage.messages([late]), timezone="America/New_York")
    assert (engage.sent()["u1"]["end_date"], engage.sent()["u1"]["start_date"]) == ("9999-12-31", "9999-12-31")
    assert engage.summaries[-1]["invalid"] == {"start_date: no date": 1}


def test_typed_dates_and_numbers_of_a_batch_are_bounded_too(engage: Engage) -> None:
    path = engage.folder / "rows.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 'RC' || n AS subscription_id, 'u' || n AS user_id, CASE n WHEN 1 THEN 'infinity' WHEN 2 THEN "
            "'0044-03-15 (BC)' WHEN 3 THEN '10000-01-01' ELSE '2026-01-01' END::TIMESTAMPTZ AS end_date, "
            "CASE n WHEN 1 THEN 'nan' WHEN 2 THEN '1e300' ELSE '5' END::DOUBLE AS days_subscribed, "
            f"CASE n WHEN 1 THEN '1e30' ELSE '5' END::DOUBLE AS total_charged FROM range(1, 6) t(n)) TO '{path}'"
        )
    start, *_, end = engage.messages([])
    batch = {"type": "BATCH", "stream": STREAM, "encoding": {"format": "parquet"}, "manifest": [path.as_uri()]}
    run = engage.run([start, batch, end], traits="end_date,days_subscribed,total_charged")
    assert run.code == 0, run.log
    assert engage.summaries[-1]["invalid_values"] == {
        "subscriptions": {"end_date": 3, "days_subscribed": 2, "total_charged": 1}
    }
    assert {user: row["end_date"] for user, row in engage.sent().items()} == dict.fromkeys(
        ("u1", "u2", "u3"), "9999-12-31"
    ) | dict.fromkeys(("u4", "u5"), "2026-01-01")


def test_a_value_that_becomes_valid_is_listed_no_more(engage: Engage) -> None:
    engage.run(engage.messages([engage.subscription(1, end_date=None)]))
    engage.run(engage.messages([engage.subscription(1, end_date="infinity")]))
    assert len(engage.files) == 1
    assert engage.query("SELECT user_id, trait FROM invalid") == [("u1", "end_date")]
    engage.run(engage.messages([engage.subscription(1, end_date="2026-01-01")]))
    assert engage.query("SELECT user_id FROM invalid") == []


def test_half_a_character_a_name_twice_and_no_object_are_counted(engage: Engage) -> None:
    lines = [
        b'{"id":"u1","tier":"x\\ud83d"}', b'{"id":"u2","id":"u3","tier":"x"}', b"5", b"null", b'["u4"]',
        b'{"id":"u5\\ud83d","tier":"x"}', b'{"id":"u6","tier":"\\ud83d\\ude00"}', b'{"id":"u7","tier":NaN}',
    ]  # fmt: skip
    schema = b'{"type":"SCHEMA","stream":"crm","schema":{"properties":{"id":{},"tier":{"type":"string"}}}}\n'
    body = b"".join(b'{"type":"RECORD","stream":"crm","record":%s}\n' % line for line in lines)
    run = engage.run(schema + body, **crm("tier"))
    assert run.code == 0, run.log
    assert sent(engage) == {"u1": "none", "u6": "\U0001f600", "u7": "none"}
    assert engage.summaries[-1]["rows"] == {"read": 8, "rejected": 5}
    assert engage.summaries[-1]["invalid_values"] == {"crm": {"tier": 2}}


# Streams beside the users

BAD_PROMOTIONS = {
    "half a character": '"promotion_name":"Spring \\ud83d"', "NaN": '"percentage_discount":NaN',
    "Infinity": '"percentage_discount":-Infinity', "NaN as text": '"percentage_discount":"nan"',
    "a huge number": '"discount_amount":1e300', "digits without end": '"uses":' + "9" * 9999,
    "a text for a number": '"uses":"many"', "half a use": '"uses":1.5', "a flag that is none": '"deleted":"perhaps"',
    "a list for a text": '"promotion_name":["a"]', "an object for a text": '"status":{"a":1}',
    "no JSON in a list": '"term_ids":"TM1"', "far in the future": '"end_date":"99999-01-01T00:00:00Z"',
    "infinity": '"end_date":"infinity"', "BC": '"start_date":"0001-12-31 (BC)"', "epoch": '"end_date":"epoch"',
    "nested deep": '"term_ids":' + "[" * 200 + "]" * 200, "deeper": '"term_ids":' + "[" * 9999 + "]" * 9999,
    "a name twice": '"uses":1,"uses":2', "no id": '"promotion_id":null', "a list for an id": '"promotion_id":["PR1"]',
}  # fmt: skip
"""Half a promotion may promise too much: one without its end would be valid for ever."""


@pytest.mark.parametrize("way", ["record", "jsonl"])
def test_bad_promotions_are_rejected_and_subscriptions_are_delivered(engage: Engage, way: str) -> None:
    records = [
        json.dumps({"promotion_id": f"PR{n}"})[:-1] + f",{member}}}" for n, member in enumerate(BAD_PROMOTIONS.values())
    ]
    records.append(json.dumps(shop.promotion("GOOD")))
    start, *_ = stream("promotions")
    if way == "record":
        given = "".join(f'{{"type":"RECORD","stream":"promotions","record":{one}}}\n' for one in records)
    else:
        path = engage.folder / "promotions.jsonl"
        path.write_text("\n".join(records), encoding="utf-8")
        batch = {"type": "BATCH", "stream": "promotions", "encoding": {"format": "jsonl"}, "manifest": [path.as_uri()]}
        given = json.dumps(batch) + "\n"
    run = engage.run(engage.lines([start]) + given.encode() + engage.lines(engage.snapshot(engage.subscriptions(2))))
    assert run.code == 0, run.log
    assert set(engage.sent()) == {"u1", "u2"}
    forms = list(BAD_PROMOTIONS)
    kept = [key for (key,) in engage.query("SELECT promotion_id FROM promotions")]
    assert [forms[int(key[2:])] for key in kept if key != "GOOD"] == []
    assert kept == ["GOOD"]
    count = len(BAD_PROMOTIONS)
    assert engage.summaries[-1]["rejected_rows"] == {"promotions": count}
    words = f"promotions: {count} of {count + 1} row(s) cannot be used and are left out (PR"
    assert any(words in line for line in run.warnings)


@pytest.mark.parametrize(
    ("role", "record"),
    [
        ("promo_codes", {"promo_code_id": "PC1", "promo_code": ["SPRING"]}),
        ("terms", {"term_id": "TM1", "payment_allow_promo_codes": "perhaps"}),
        ("subscriptions", {"subscription_id": "RC1", "user_id": "u1", "end_date": "infinity"}),
        ("subscriptions", {"subscription_id": "RC1", "user_id": "12345.0"}),
    ],
)
def test_so_is_one_of_the_other_streams(engage: Engage, role: str, record: dict[str, Any]) -> None:
    messages = engage.messages([record], stream=role, properties=list(record), state=None)
    run = engage.run([*messages, *engage.snapshot(engage.subscriptions(2))])
    assert (run.code, set(engage.sent())) == (0, {"u1", "u2"}), run.log
    label = "subscriptions of the API" if role == "subscriptions" else role
    assert engage.summaries[-1]["rejected_rows"] == {label: 1}
    assert any(f"{label}: 1 of 1 row(s) cannot be used" in line for line in run.warnings)


def test_a_snapshot_with_a_bad_promotion_takes_none_away(engage: Engage) -> None:
    full = stream("promotions", shop.promotion("PR1"), shop.promotion("PR2"), version=1)
    engage.run([*full, *engage.snapshot(engage.subscriptions(2))])
    damaged = stream("promotions", shop.promotion("PR1", end_date="infinity"), version=2)
    assert engage.run([*damaged, *engage.snapshot(engage.subscriptions(2))]).code == 0
    assert engage.query("SELECT promotion_id FROM promotions ORDER BY 1") == [("PR1",), ("PR2",)]


def test_a_snapshot_that_ended_without_its_version_is_just_not_complete(engage: Engage) -> None:
    """A tap that rejected a record sends no ACTIVATE_VERSION, and says in its STATE that the stream ended."""
    engage.run([*stream("promotions", shop.promotion("PR1"), version=1), *engage.snapshot(engage.subscriptions(2))])
    open_ended = stream("promotions", shop.promotion("PR2"), version=2)[:-1]
    log = engage.snapshot(
        engage.subscriptions(2), state={"bookmarks": {"promotions": {"ended": "2026-03-28T01:00:00Z"}}}
    )
    assert engage.run([*open_ended, *log]).code == 0
    assert engage.query("SELECT promotion_id FROM promotions ORDER BY 1") == [("PR1",), ("PR2",)]


def test_many_unusable_values_are_held_back_and_a_few_are_not(engage: Engage) -> None:
    records = [engage.subscription(n, renewed="perhaps" if n <= 20 else "true") for n in range(1, 101)]
    run = engage.run(engage.messages(records))
    assert (run.code, engage.files) == (80, [])
    assert "20 values of renewed of subscriptions cannot be used, of 100 rows" in run.errors
    records[0] = engage.subscription(1, renewed="true")
    assert engage.run(engage.messages(records)).code == 0
