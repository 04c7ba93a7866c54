"""`recurly-engage reconcile`: Piano's API beside its log, what is desired, and what Engage acknowledged."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner
from target_recurly_engage import reconcile as module
from target_recurly_engage.cli import main

from tests.target.conftest import Engage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from click.testing import Result

    from tests.target.conftest import Message, Record

API = "api_list"
STREAMS = {"subscription_log": {"role": "subscriptions"}, API: {"role": "reconcile"}}
PROPERTIES = (
    "subscription_id", "user_id", "api_status", "api_status_name", "auto_renew", "start_date", "end_date", "term_id",
    "term_name", "read_at", "user_email",
)  # fmt: skip
READ_AT = "2026-03-28T05:00:00+00:00"
MODIFIED = "2026-03-27T20:00:00+00:00"
SPELLED = {
    "Active": "active", "Completed": "completed", "Cancelled": "cancelled", "Expired": "expired",
    "Upgraded": "upgraded", "Failed - Will Retry": "fail_and_retry",
    "Expired Due To Payment Error": "expired_with_error", "Deleted": "deleted", "Wait Confirmed": "wait_confirmed",
    "Pending": "pending", "Not started": "not_started",
}  # fmt: skip
"""The log's label and the API's code of each status, as docs/streams.md has them."""


def of_api(record: Record, **values: object) -> Record:
    """What the API's list says of a row of the log; the address must not be kept."""
    kept = {one: record.get(one) for one in ("subscription_id", "user_id", "auto_renew", "start_date", "term_id")}
    status = SPELLED[record["subscription_status"]]
    return kept | {"api_status": status, "read_at": READ_AT, "user_email": "ann@example.com"} | values


def api_messages(engage: Engage, rows: Iterable[Record], **options: Any) -> list[Message]:  # noqa: ANN401 - as messages()
    return engage.messages(rows, stream=API, properties=PROPERTIES, **options)


def both(engage: Engage, log: Iterable[Record], api: Iterable[Record], **options: Any) -> list[Message]:  # noqa: ANN401 - as messages()
    return [*engage.snapshot(log, state=None), *api_messages(engage, api, **options)]


def log_of(engage: Engage, count: int = 40) -> list[Record]:
    """As many readers; two terms, all statuses."""
    words = list(SPELLED)
    return [
        engage.subscription(
            n, subscription_status=words[n % len(words)], term_id=f"TM{n % 2}", term_name=f"Term {n % 2}",
            modify_time=MODIFIED,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def template(make_engage: Callable[[], Engage]) -> Engage:
    """A ledger of forty readers that API, log and Engage agree on."""
    engage = make_engage()
    log = log_of(engage)
    run = engage.run(both(engage, log, map(of_api, log), version=1), streams=STREAMS)
    assert run.code == 0, run.log
    return engage


@pytest.fixture
def agreeing(template: Engage, tmp_path: Path) -> Engage:
    """A copy of it that a test may spoil."""
    engage = Engage(tmp_path, {"streams": STREAMS})
    shutil.copy(template.ledger, engage.ledger)
    return engage


def ask(engage: Engage, *arguments: str, given: bytes | None = None, **config: object) -> Result:
    path = engage.folder / "cli.json"
    path.write_text(json.dumps(engage.config | config), encoding="utf-8")
    return CliRunner().invoke(main, ["--config", str(path), "reconcile", *arguments], input=given)


def answer(engage: Engage, *arguments: str, **config: object) -> dict[str, Any]:
    done = ask(engage, *arguments, "--json", **config)
    assert done.exit_code in {0, 82}, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code == 82) == (found["differences"] > 0)
    return found


def named(found: dict[str, Any], key: str, column: str = "user_id") -> list[str]:
    return [row[column] for row in found["lists"].get(key, {"rows": []})["rows"]]


def spoil(engage: Engage, *statements: str) -> None:
    with duckdb.connect(str(engage.ledger)) as connection:
        for statement in statements:
            connection.execute(statement)


# All is well


def test_all_sides_agree_though_api_and_log_spell_each_status_differently(agreeing: Engage) -> None:
    before = agreeing.dump(without=())
    found = answer(agreeing)
    assert agreeing.dump(without=()) == before
    assert found["lists"] == {}
    assert found["totals"] == dict.fromkeys(module.SIDES, 40)
    assert found["by_term"] == {"TM0": dict.fromkeys(module.SIDES, 20), "TM1": dict.fromkeys(module.SIDES, 20)}
    assert found["by_status"]["failed - will retry"] == dict.fromkeys(module.SIDES, 4), "n % 11 = 5: 5, 16, 27, 38"
    assert found["by_lifecycle"]["runs"] == dict.fromkeys(module.SIDES, 3 + 4 + 4), "active, completed, will retry"
    assert sum(counts["log"] for counts in found["by_lifecycle"].values()) == 40
    assert found["newest"]["api"].startswith("2026-03-28 05:00")
    assert found["newest"]["log"].startswith("2026-03-27 20:00")
    words = ask(agreeing)
    assert words.exit_code == 0
    assert "all sides agree" in words.stdout
    assert "subscriptions: 40 in the API, 40 in the log" in words.stdout


def test_without_the_map_of_words_nothing_agrees(agreeing: Engage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken double: statuses are compared as they are spelled."""
    monkeypatch.setattr(module, "canonical", lambda word: word)
    with pytest.raises(AssertionError):
        test_all_sides_agree_though_api_and_log_spell_each_status_differently(agreeing)


def test_the_api_side_is_no_trait_and_holds_nothing_personal(template: Engage) -> None:
    assert "api_status" not in template.sent()["u1"]
    assert set(template.sent()) == {f"u{n}" for n in range(1, 41)}
    assert template.query("SELECT column_name FROM duckdb_columns() WHERE column_name LIKE '%email%'") == []
    assert b"ann@example.com" not in template.ledger.read_bytes()
    assert template.summaries[-1]["rows"] == {"read": 40, "rejected": 0}
    assert template.summaries[-1]["api_subscriptions"] == {"before": 0, "after": 40, "came": 40, "vanished": 0}


# What differs


def check_the_missing_set(engage: Engage) -> None:
    """Three rows vanish from the log, two acknowledgements and one row of the API: exactly these are named."""
    spoil(
        engage,
        "DELETE FROM subscriptions WHERE subscription_id IN ('RC000003', 'RC000011', 'RC000030')",
        "DELETE FROM delivered WHERE user_id IN ('u7', 'u20')",
        "DELETE FROM api_subscriptions WHERE subscription_id = 'RC000009'",
    )
    found = answer(engage)
    assert named(found, "in_api_not_in_log", "subscription_id") == ["RC000003", "RC000011", "RC000030"]
    assert named(found, "in_log_not_in_api", "subscription_id") == ["RC000009"]
    assert named(found, "not_acknowledged") == ["u20", "u7"]
    assert named(found, "behind") == ["u11", "u3", "u30"]
    assert {row["why"] for row in found["lists"]["not_acknowledged"]["rows"]} == {"planned"}
    assert found["totals"] == {"api": 39, "log": 37, "desired": 40, "acknowledged": 38}
    assert found["by_status"]["(no subscription)"]["desired"] == 3
    assert found["differences"] == 3 + 1 + 2 + 3


def test_the_missing_set_is_named(agreeing: Engage) -> None:
    check_the_missing_set(agreeing)


def test_a_comparison_that_only_looks_at_failures_is_seen(agreeing: Engage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken double: only what was rejected counts as not acknowledged."""
    failed = {"not_acknowledged": module.Listing("failed", "SELECT user_id, reason AS why FROM rejects")}
    monkeypatch.setattr(module, "_reader_listings", lambda *_: failed)
    with pytest.raises(AssertionError):
        check_the_missing_set(agreeing)


def test_each_reason_is_told(agreeing: Engage) -> None:
    reject = "INSERT INTO rejects SELECT '{}', 422, 'bad id', 1, now(), now(), {}, fingerprint FROM delivered LIMIT 1"
    spoil(
        agreeing,
        "DELETE FROM delivered WHERE user_id IN ('u1', 'u2', 'u3')",
        reject.format("u1", "now() + INTERVAL 1 HOUR"),
        reject.format("u2", "'infinity'"),
        "UPDATE subscriptions SET promo_code = 'SPRING' WHERE user_id = 'u4'",  # changed, and in a file of an hour ago
        "UPDATE deliveries SET channel = 's3', acknowledged_at = now() - INTERVAL 1 HOUR",
        f"UPDATE subscriptions SET promo_code = '{'x' * 2000}' WHERE user_id = 'u5'",
        "UPDATE delivered SET subscription_status = 'Active', user_id = 'ghost' WHERE user_id = 'u40'",
        "UPDATE destinations SET folder = NULL, application = 'a at https://conduit.redfast.com'",
    )
    settings = {"delivery": "ingest", "app_id": "a", "api_key": "k", "leave_out": {"subscription_id": ["RC000006"]}}
    found = answer(agreeing, **settings)
    reasons = {row["user_id"]: row["why"] for row in found["lists"]["not_acknowledged"]["rows"]}
    assert set(reasons) == {"u1", "u2", "u3", "u40"}
    assert reasons["u1"].startswith("rejected with 422 bad id, again after ")
    assert reasons["u2"] == "rejected with 422 bad id, and given up"
    assert (reasons["u3"], reasons["u40"]) == ("planned", "planned")
    behind = {row["user_id"]: row["why"] for row in found["lists"]["behind"]["rows"]}
    assert set(behind) == {"u4", "u6"}, "u5 was told none, and an invalid value counts as none"
    assert behind["u4"].startswith("waiting for a file that counts as unread until ")
    assert found["lists"]["invalid"]["rows"] == [
        {"user_id": "u5", "trait": "promo_code", "why": "longer than 1000 characters"}
    ]
    assert found["lists"]["unknown_to_piano"]["rows"] == [
        {"user_id": "ghost", "why": "planned: the next run clears him"}
    ]
    assert named(found, "left_out") == ["u6"]
    assert found["differences"] == 4 + 2 + 1 + 1, "who is left out by rule is as he should be"


def test_what_differs_in_both_is_named_by_column(agreeing: Engage) -> None:
    spoil(
        agreeing,
        "UPDATE api_subscriptions SET api_status = 'cancelled' WHERE subscription_id = 'RC000012'",  # it was completed
        "UPDATE api_subscriptions SET api_status = NULL, api_status_name = 'Completed' "
        "WHERE subscription_id = 'RC000001'",
        "UPDATE api_subscriptions SET term_id = 'TM7' WHERE subscription_id = 'RC000013'",
        "UPDATE api_subscriptions SET user_id = 'u99' WHERE subscription_id = 'RC000014'",
        "UPDATE api_subscriptions SET auto_renew = false WHERE subscription_id = 'RC000015'",
        "UPDATE api_subscriptions SET api_status = 'paused' WHERE subscription_id = 'RC000016'",
        "UPDATE api_subscriptions SET api_status = NULL, term_id = NULL WHERE subscription_id = 'RC000017'",
    )
    found = answer(agreeing)
    differ = {key: [tuple(row.values()) for row in one["rows"]] for key, one in found["lists"].items()}
    assert differ == {
        "status_differs": [
            ("RC000012", "u12", "cancelled", "completed"),
            ("RC000016", "u16", "paused", "failed - will retry"),
        ],
        "term_differs": [("RC000013", "u13", "TM7", "TM1")],
        "reader_differs": [("RC000014", "u14", "u99", "u14")],
        "auto_renew_differs": [("RC000015", "u15", "false", "true")],
    }
    assert found["by_lifecycle"]["unknown"] == {"api": 1, "log": 0, "desired": 0, "acknowledged": 0}


def test_what_began_after_the_log_is_marked(agreeing: Engage) -> None:
    spoil(
        agreeing,
        "INSERT INTO api_subscriptions BY NAME SELECT 'RC1' AS subscription_id, 'x' AS user_id, 'active' AS api_status,"
        f" '{READ_AT}'::TIMESTAMPTZ AS start_date",
    )
    found = answer(agreeing)
    assert named(found, "in_api_not_in_log", "why") == ["began after the newest change in the log"]
    assert ask(agreeing, "--tolerance", "0.02").exit_code == 82
    assert ask(agreeing, "--tolerance", "0.025").exit_code == 0, "1 of 41 is less than 2.5 %"


def test_lists_are_cut_for_people_and_whole_for_programs(agreeing: Engage) -> None:
    spoil(agreeing, "DELETE FROM delivered WHERE user_id <> 'u1'")
    words = ask(agreeing, "--limit", "3").stdout
    assert "never delivered: 39\n  u10, planned\n  u11, planned\n  u12, planned\n  … and 36 more" in words
    assert len(named(answer(agreeing), "not_acknowledged")) == 39


def test_traits_that_are_not_sent_are_told_as_such(agreeing: Engage) -> None:
    found = answer(agreeing, traits="lifecycle_stage")
    assert found["by_status"]["(not sent)"]["desired"] == 40
    assert found["totals"]["acknowledged"] == 40


# Where the API's side comes from


def test_a_file_or_a_pipe_stand_for_what_a_run_would_have_brought(agreeing: Engage) -> None:
    log = log_of(agreeing)
    rows = [of_api(record) for record in log[:-1]]
    lines = agreeing.lines(api_messages(agreeing, rows, version=1))
    path = agreeing.folder / "api.jsonl"
    path.write_bytes(lines)
    before = agreeing.dump(without=())
    found = answer(agreeing, "--from", str(path))
    assert named(found, "in_log_not_in_api", "subscription_id") == ["RC000040"]
    piped = ask(agreeing, "--from", "-", "--json", given=lines)
    assert (piped.exit_code, json.loads(piped.stdout)) == (82, found)
    assert agreeing.dump(without=()) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: b"", "no SCHEMA of stream 'api_list' came; of other streams: none at all"),
        (lambda lines: lines.replace(b'"api_list"', b'"terms"'), "of other streams: terms"),
        (lambda lines: lines[: len(lines) // 2], "holds what cannot be read"),
        (lambda lines: b"\n".join(lines.splitlines()[:-2]) + b"\n", "broke off in the middle of a snapshot"),
        (lambda lines: lines + b'{"type": "BATCH", "stream": "api_list"}\n', "comes in BATCH files"),
        (lambda lines: lines.replace(b'"start_date": "2026-01-01', b'"start_date": "soon-01-01'), "start_date of subs"),
        (lambda lines: lines.replace(b'"user_id"', b'"uid"'), "its schema has no user_id"),
    ],
)
def test_what_cannot_be_read_is_refused_with_code_65(
    agreeing: Engage, change: Callable[[bytes], bytes], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = agreeing.lines(api_messages(agreeing, map(of_api, log_of(agreeing, 3)), version=1))
    assert ask(agreeing, "--from", "-", given=change(lines)).exit_code == 65
    assert says in caplog.text


def test_without_an_api_side_it_says_how_to_get_one(agreeing: Engage, caplog: pytest.LogCaptureFixture) -> None:
    spoil(agreeing, "DELETE FROM api_subscriptions")
    assert ask(agreeing).exit_code == 66
    assert "recurly-engage reconcile --from -" in caplog.text


def test_two_streams_cannot_both_be_the_api(agreeing: Engage, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(agreeing, streams=STREAMS | {"more": {"role": "reconcile"}}).exit_code == 78
    assert "streams: one stream may have the role reconcile, there are api_list and more" in caplog.text


def test_rows_that_changed_are_merged_and_a_complete_list_replaces(agreeing: Engage) -> None:
    changed = of_api(log_of(agreeing, 2)[1], api_status="cancelled")
    new = of_api(agreeing.subscription(50))
    assert agreeing.run(api_messages(agreeing, [changed, new])).code == 0
    assert agreeing.summaries[-1]["api_subscriptions"] == {"before": 40, "after": 41, "came": 2, "vanished": 0}
    query = "SELECT subscription_id, api_status FROM api_subscriptions WHERE subscription_id SIMILAR TO 'RC0000(02|50)'"
    assert sorted(agreeing.query(query)) == [("RC000002", "cancelled"), ("RC000050", "active")]
    assert agreeing.run(api_messages(agreeing, [new], version=2)).code == 0
    assert agreeing.summaries[-1]["api_subscriptions"] == {"before": 41, "after": 1, "came": 1, "vanished": 40}


def test_the_api_of_another_application_is_refused(agreeing: Engage) -> None:
    spoil(agreeing, "UPDATE subscriptions SET aid = 'A1'")
    rows = [of_api(agreeing.subscription(1), aid="A2")]
    run = agreeing.run(agreeing.messages(rows, stream=API, properties=(*PROPERTIES, "aid")))
    assert run.code == 78
    assert "subscriptions of A1 and A2 meet" in run.errors
