"""The CSVs: written by the rules that Engage's ingest folder asks for, and only when there is something to say."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.target.conftest import Engage

HEADER = (
    "user_id,subscription_id,create_date,start_date,end_date,days_subscribed,subscription_status,upgrade_status,"
    "trial_status,trial_period_end_date,auto_renew,auto_renew_disablement_date,billing_period,total_charged,"
    "next_billing_date,renewed,currently_in_grace_period,grace_period_start_date,grace_period_extended_to,"
    "access_expiration_date,resource_id,resource_name,term_id,term_name,term_type,template_id,template_name,"
    "offer_id,offer_name,promo_code"
)
AWKWARD = [
    "a,b",
    'say "so"',
    "two\nlines",
    "cr\rhere",
    " lead",
    "trail ",
    "NULL",
    "#no",
    "日本 é",
    "",
    "   ",
    "-",
    "'",
    "\\",
]


def test_a_file_is_plain_utf_8_with_lf_and_no_blank_cell(engage: Engage) -> None:
    records = [engage.subscription(n, term_name=text) for n, text in enumerate(AWKWARD)]
    assert engage.run(engage.snapshot(records)).code == 0
    (path,) = engage.files
    raw = path.read_bytes()
    assert raw.decode("utf-8").startswith(HEADER + "\n")
    assert b"\r\n" not in raw
    assert raw.endswith(b"\n")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in header)
    assert all(len(row) == len(header) and all(row) for row in rows)
    assert {row["term_name"] for row in engage.sent().values()} == {*AWKWARD, "none"} - {"", "   "}


def test_the_name_of_a_file_is_unique_tells_the_time_and_ends_in_csv(engage: Engage) -> None:
    for number in (1, 2):
        engage.run(engage.messages([engage.subscription(number)]))
    names = [path.name for path in engage.files]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"traits-\d{8}T\d{6}Z-[0-9a-f]{8}\.csv", name) for name in names)


def test_values_are_written_plainly_and_dates_in_the_zone_of_the_application(engage: Engage) -> None:
    record = engage.subscription(
        auto_renew=True, renewed=False, days_subscribed=1234567, total_charged="1234567.5000",
        access_expiration_date="2026-03-31T22:30:00Z", start_date="2024-02-29 01:23:11 +0200",
        end_date="2026-03-31T21:59:59.999+00:00",
    )  # fmt: skip
    assert engage.run(engage.snapshot([record]), timezone="Europe/Amsterdam").code == 0
    row = engage.sent()["u1"]
    assert row["access_expiration_date"] == "2026-04-01"
    assert row["start_date"] == "2024-02-29"
    assert row["end_date"] == "2026-03-31"
    assert (row["auto_renew"], row["renewed"]) == ("true", "false")
    assert (row["days_subscribed"], row["total_charged"]) == ("1234567", "1234567.5")
    assert (row["promo_code"], row["next_billing_date"]) == ("none", "9999-12-31")
    assert row["currently_in_grace_period"] == "false"


def test_money_has_no_needless_zeros_and_no_exponent(engage: Engage) -> None:
    cases = {"0.0000": "0", "100": "100", "-0.5": "-0.5", "0.1000": "0.1", "1e3": "1000", None: "1000000"}
    records = [engage.subscription(n, total_charged=given) for n, given in enumerate(cases)]
    engage.run(engage.snapshot(records), clear_number=1_000_000)
    assert [engage.sent()[f"u{n}"]["total_charged"] for n in range(len(cases))] == list(cases.values())


def test_only_readers_whose_traits_changed_are_in_the_second_file_and_none_is_written_without_changes(
    engage: Engage,
) -> None:
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records))
    records[3] |= {"subscription_status": "Cancelled"}
    second = engage.run(engage.snapshot([*records, engage.subscription(99)]))
    assert set(engage.sent()) == {"u4", "u99"}
    third = engage.run(engage.snapshot([*records, engage.subscription(99)]))
    assert len(engage.files) == 2
    assert (second.code, third.code) == (0, 0)
    assert engage.summaries[-1]["users"] == {
        "total": 11,
        "new": 0,
        "changed": 0,
        "cleared": 0,
        "again": 0,
        "unchanged": 11,
    }
    assert third.states
    assert "0 changes" in third.log


def test_the_summary_counts_rows_readers_and_traits(engage: Engage) -> None:
    records = engage.subscriptions(20, promo_code="SPRING")
    engage.run(engage.snapshot(records))
    records[0] |= {"term_name": "Digital"}
    records[1] |= {"promo_code": None}
    engage.run(engage.snapshot([*records[:-1], engage.subscription(50)]))
    told = engage.summaries[-1]
    assert told["status"] == "finished"
    assert told["rows"] == {"read": 20, "rejected": 0}
    assert told["subscriptions"] == {"before": 20, "after": 20, "came": 20, "vanished": 1}
    assert told["users"] == {"total": 21, "new": 1, "changed": 2, "cleared": 1, "again": 0, "unchanged": 17}
    assert told["traits"]["term_name"] == {"new": 0, "changed": 1, "cleared": 0}
    assert told["traits"]["promo_code"] == {"new": 0, "changed": 0, "cleared": 2}
    assert told["traits"]["subscription_id"] == {"new": 1, "changed": 0, "cleared": 1}
    (file,) = told["files"]
    assert file["location"] == str(engage.files[-1])
    assert (file["users"], file["bytes"]) == (4, engage.files[-1].stat().st_size)
    ((noted,),) = engage.query("SELECT summary->>'$.users.new' FROM runs ORDER BY started_at DESC LIMIT 1")
    assert noted == "1"


def test_another_wording_reaches_every_reader_it_concerns(engage: Engage) -> None:
    engage.run(engage.snapshot([*engage.subscriptions(3, promo_code="X"), engage.subscription(4)]))
    engage.run(engage.messages([]), clear_string="nothing", clear_date="2000-01-01", clear_boolean=True)
    assert len(engage.sent()) == 4
    assert engage.sent()["u4"]["promo_code"] == "nothing"
    assert engage.sent()["u1"]["promo_code"] == "X"
    assert engage.sent()["u1"]["renewed"] == "true"
    assert engage.sent()["u1"]["end_date"] == "2000-01-01"


def test_a_rule_that_writes_the_same_in_other_words_sends_nothing(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(5)))
    fingerprints = engage.query("SELECT DISTINCT fingerprint FROM delivered")
    same_dates = {"timezone": "Etc/GMT"}
    run = engage.run(engage.messages([]), **same_dates)
    assert "0 changes" in run.log
    assert engage.query("SELECT DISTINCT fingerprint FROM delivered") != fingerprints
    assert len(engage.files) == 1


def test_time_alone_may_change_the_primary_subscription(engage: Engage) -> None:
    ends = engage.subscription(1, "a", access_expiration_date="2026-03-29T00:00:00Z", term_name="first")
    free = engage.subscription(
        2, "a", term_type="Registration", access_expiration_date="2027-01-01T00:00:00Z", term_name="second"
    )
    engage.run(engage.snapshot([ends, free]))
    assert engage.sent()["a"]["term_name"] == "first"
    engage.run(engage.snapshot([ends, free]), as_of="2026-03-30")
    assert engage.sent()["a"]["term_name"] == "second"
    engage.run(engage.snapshot([ends, free]), as_of="2026-03-28")
    assert engage.sent()["a"]["term_name"] == "first"
