"""Offers: which promo codes are valid, how they are written, and that the file is left alone while nothing changes."""

from __future__ import annotations

import errno
import os
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import StorageFailed
from target_recurly_engage import offers, promotions
from target_recurly_engage.contract import contract_of
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.offers import COLUMNS, write_offers

from tests.target import shop
from tests.target.test_config_errors import refusal
from tests.target.test_plan import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.offers import DataSource

NOW = datetime(2026, 3, 28, 22, 30, tzinfo=UTC)  # half past eleven in the evening in Amsterdam
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def contract(**settings: object) -> Contract:
    return contract_of(CONFIG | {"timezone": "Europe/Amsterdam", "checkout_url": shop.TEMPLATE} | settings)


@contextmanager
def opened(folder: Path, *rows: Sequence[shop.Row]) -> Iterator[Ledger]:
    """Open a ledger that holds these promotions, codes and terms."""
    with closing(Ledger(folder / "ledger.duckdb", memory_limit="200MB")) as ledger:
        for table, some in zip(("promotions", "promo_codes", "terms"), rows, strict=False):
            shop.fill(ledger, table, some)
        yield ledger


def found(folder: Path, *rows: Sequence[shop.Row], **settings: object) -> dict[str, Any]:
    with opened(folder, *rows) as ledger:
        return offers.offers(ledger, contract(**settings), NOW.isoformat())


# Validity


BOUNDARIES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"end_date": NOW + SECOND}, None),
    ({"end_date": NOW}, "expired"),
    ({"start_date": NOW}, None),
    ({"start_date": NOW + SECOND}, "not started"),
    ({"start_date": NOW - DAY, "status": "new"}, None),  # its day came after the row
    ({"status": "new"}, "not started"),
    ({"status": "expired"}, "expired"),
    ({"status": "expired", "end_date": NOW + DAY}, "expired"),  # ended by hand
    ({"status": "paused"}, "the status paused is not known"),
    ({"status": None}, None),
    ({"deleted": True}, "deleted"),
    ({"deleted": None}, None),
    ({"unlimited_uses": False, "uses_allowed": 5, "uses": 4}, None),
    ({"unlimited_uses": False, "uses_allowed": 5, "uses": 5}, "used up"),
    ({"unlimited_uses": False, "uses_allowed": 5, "uses": 6}, "used up"),
    ({"unlimited_uses": False, "uses_allowed": 0, "uses": None}, "used up"),
    ({"unlimited_uses": True, "uses_allowed": 5, "uses": 9}, None),
    ({"unlimited_uses": False, "uses_allowed": None, "uses": 9}, None),
]


def test_an_offer_is_valid_up_to_its_very_boundary(tmp_path: Path) -> None:
    given = [shop.promotion(f"PR{i:02}", **values) for i, (values, _) in enumerate(BOUNDARIES)]
    said = found(tmp_path, given)
    left_out = {one["promotion_id"]: one["why"] for one in said["left_out"]}
    assert left_out == {f"PR{i:02}": why for i, (_, why) in enumerate(BOUNDARIES) if why}
    assert [one["promotion_id"] for one in said["offers"]] == [
        f"PR{i:02}" for i, (_, why) in enumerate(BOUNDARIES) if not why
    ]


def test_a_pool_is_valid_while_it_has_a_free_code(tmp_path: Path) -> None:
    given = [shop.pool(f"PR{n}") for n in range(4)]
    codes = [
        shop.code("PR0", "a"),
        shop.code("PR0", "b", "used"),
        shop.code("PR1", "c", "reserved_for_free_trial"),
        shop.code("PR2", "d", deleted=True),
    ]
    said = found(tmp_path, given, codes)
    assert [one["promotion_id"] for one in said["offers"]] == ["PR0"]
    assert [(one["promotion_id"], one["why"], one["codes"], one["free"]) for one in said["left_out"]] == [
        ("PR1", "no free code", 1, 0), ("PR2", "no free code", 1, 0), ("PR3", "no free code", 0, 0),
    ]  # fmt: skip


def test_without_any_code_in_the_ledger_a_pool_is_not_taken_for_empty(tmp_path: Path) -> None:
    assert [one["promotion_id"] for one in found(tmp_path, [shop.pool("PR0")])["offers"]] == ["PR0"]


@pytest.mark.parametrize("seed", range(3))
def test_offers_are_those_of_a_second_implementation(tmp_path: Path, seed: int) -> None:
    given, codes, terms = shop.promotions(seed, 120, NOW)
    with opened(tmp_path, given, codes, terms) as ledger:
        for kind in ("promotion", "first", "all"):
            made = contract(single_use_codes=kind)
            write_offers(ledger, made, tmp_path / kind, NOW.isoformat())
            rows = {(row["promotion_id"], row["code"]): row for row in shop.read(tmp_path / kind / "offers.csv")}
            expected = {}
            for one in given:
                if shop.why_not(one, codes, NOW):
                    continue
                free = [c["promo_code"] for c in codes if c["promotion_id"] == one["promotion_id"] and shop.is_free(c)]
                shown = {"promotion": [""], "first": sorted(free)[:1], "all": free}[kind]
                for code in [one["fixed_promotion_code"]] if one["fixed_promotion_code"] else shown:
                    expected[one["promotion_id"], code] = one
            assert rows.keys() == expected.keys()
            for (id_, code), one in expected.items():
                row, for_terms = rows[id_, code], shop.terms_of(one, terms)
                assert row["term_ids"] == ",".join(for_terms)
                assert row["checkout_link"] == shop.link(code, for_terms), one
                assert row["valid_until"] == shop.last_day(one["end_date"])
                assert float(row["discount_value"]) == one["percentage_discount"]
                limited = not one["unlimited_uses"] and one["uses_allowed"] is not None
                assert row["remaining_uses"] == (str(one["uses_allowed"] - (one["uses"] or 0)) if limited else "")
                assert row["new_customers_only"] == str(one["new_customers_only"]).lower()
    assert 10 < len(expected) < 120


# How it is written


def test_a_row_says_what_a_prompt_needs(tmp_path: Path) -> None:
    discounts = [
        {"currency": "EUR", "amount": "5.00", "amount_value": 5.0},
        {"currency": "GBP", "amount": "4.50", "amount_value": 4.5},
    ]
    given = [
        shop.promotion(
            "PR1", discount_type="fixed", discount="5,00 €", discount_amount=5, discount_currency="EUR",
            fixed_discount_list=discounts, percentage_discount=None, start_date=NOW - DAY,
            end_date=datetime(2026, 3, 31, 22, tzinfo=UTC), term_dependency_type="include", term_ids=["TM2", "TM1"],
            unlimited_uses=False, uses_allowed=100, uses=1, new_customers_only=True,
        ),
        shop.promotion(
            "PR2", discount_type="fixed", discount_amount=None, fixed_discount_list=discounts[1:],
            percentage_discount=None,
        ),
        shop.promotion("PR3", percentage_discount=12.5),
    ]  # fmt: skip
    terms = [shop.term("TM1", term_name='Premium "all in"'), shop.term("TM2", term_name="Basic, monthly")]
    first, second, third = found(tmp_path, given, [], terms, checkout_terms=["TM2"])["offers"]
    assert tuple(first) == COLUMNS
    assert first == {
        "code": "PR1!", "promotion_id": "PR1", "promotion_name": "Name of PR1", "discount": "5,00 €",
        "discount_kind": "amount", "discount_value": "5", "currency": "EUR",
        "discounts_by_currency": "5.00 EUR / 4.50 GBP", "valid_from": "2026-03-27", "valid_until": "2026-03-31",
        "remaining_uses": "99", "all_terms": "false", "term_ids": "TM1,TM2",
        "term_names": 'Premium "all in"; Basic, monthly', "new_customers_only": "true",
        "checkout_link": "https://www.example.com/checkout?term=TM2&promo=PR1%21",
    }  # fmt: skip
    assert (second["discount"], second["discount_value"], second["currency"]) == ("4.50 GBP", "4.5", "GBP")
    assert (third["discount"], third["discount_kind"], third["discount_value"], third["currency"]) == (
        "12.5%", "percent", "12.5", None,
    )  # fmt: skip


ODD = [
    "50% & more",
    "a+b c",
    "ümläut/€",
    "😀",
    "x?y=1#z",
    '"quoted", twice',
    "line\nbreak",
    "{braces}",
    "'; DROP",
    "%41",
]


def test_odd_codes_survive_the_file_and_their_link(tmp_path: Path) -> None:
    given = [shop.promotion(f"PR{i:02}", fixed_promotion_code=code) for i, code in enumerate(ODD)]
    with opened(tmp_path, given, [], [shop.term("TM 1&2")]) as ledger:
        write_offers(ledger, contract(), tmp_path, NOW.isoformat())
    rows = shop.read(tmp_path / "offers.csv")
    assert [row["code"] for row in rows] == ODD
    assert [row["checkout_link"] for row in rows] == [shop.link(code, ["TM 1&2"]) for code in ODD]
    assert {row["checkout_link"].count("&") for row in rows} == {1}


def test_a_link_that_lacks_a_part_is_left_blank_and_a_template_without_places_is_a_plain_address(
    tmp_path: Path,
) -> None:
    rows = [shop.promotion("PR1"), shop.pool("PR2")]
    with opened(tmp_path, rows) as ledger:
        for template, links in (
            (shop.TEMPLATE, [None, None]),  # no term came
            ("https://www.example.com/?{{x}}={code}", ["https://www.example.com/?{x}=PR1%21", None]),
            ("https://www.example.com/%41", ["https://www.example.com/%41"] * 2),
            ("", [None, None]),
        ):
            made = offers.offers(ledger, contract(checkout_url=template), NOW.isoformat())
            assert [one["checkout_link"] for one in made["offers"]] == links


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("https://x/?t={term}", "checkout_url: no place {term}; did you mean term_id."),
        ("https://x/?t={Code}", "checkout_url: no place {Code}; did you mean code."),
        ("https://x/?t={code!r}", "checkout_url: no place {code}; did you mean code."),
        ("https://x/?t={}", "checkout_url: no place {}; there is code, promotion_id, promotion_name, term_id, "),
        ("https://x/?t={code", "checkout_url: its braces do not match"),
        ("www.example.com/{code}", "checkout_url: 'www.example.com/{code}' is no address; begin it with https://."),
    ],
)
def test_a_template_that_makes_no_link_is_told_at_start_up(template: str, told: str) -> None:
    assert refusal(checkout_url=template).startswith(told)


# The file


def write(folder: Path, now: datetime = NOW, **settings: object) -> DataSource:
    given, codes, terms = shop.promotions(5, 60, NOW)
    if (folder / "ledger.duckdb").exists():
        given, codes, terms = [], [], []
    with opened(folder, given, codes, terms) as ledger:
        return write_offers(ledger, contract(**settings), folder / "data", now.isoformat())


def test_the_file_is_rewritten_only_when_a_byte_would_be_another(tmp_path: Path) -> None:
    path = tmp_path / "data" / "offers.csv"
    first = write(tmp_path)
    os.utime(path, ns=(10**18, 10**18))
    content = path.read_bytes()
    again = write(tmp_path, NOW + timedelta(microseconds=1))
    assert (first.changed, again.changed) == (True, False)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == (10**18, content)
    assert again.sha256 == first.sha256
    later = write(tmp_path, NOW + DAY)  # time alone makes offers end
    assert later.changed
    assert path.read_bytes() != content
    assert later.rows == len(shop.read(path))
    assert [one.name for one in path.parent.iterdir()] == ["offers.csv"]


def test_the_same_offers_make_the_same_file_whatever_way_they_came(tmp_path: Path) -> None:
    given, codes, terms = shop.promotions(6, 60, NOW)
    for name, some in (("a", given), ("b", given[::-1])):
        (tmp_path / name).mkdir()
        with opened(tmp_path / name, some, codes[:: 1 if name == "a" else -1], terms) as ledger:
            write_offers(ledger, contract(single_use_codes="all"), tmp_path / name, NOW.isoformat())
    assert (tmp_path / "a" / "offers.csv").read_bytes() == (tmp_path / "b" / "offers.csv").read_bytes()


def test_when_no_offer_is_left_the_file_has_only_its_header(tmp_path: Path) -> None:
    with opened(tmp_path, [shop.promotion("PR1", deleted=True)]) as ledger:
        assert write_offers(ledger, contract(), tmp_path, NOW.isoformat()).rows == 0
    assert (tmp_path / "offers.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    path = tmp_path / "data" / "offers.csv"
    content = path.read_bytes()

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StorageFailed):
        write(tmp_path, NOW + DAY)
    assert [one.name for one in path.parent.iterdir()] == ["offers.csv"]
    assert path.read_bytes() == content


# Broken doubles


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("end_date <= moment", "end_date < moment"),
        ("start_date > moment", "start_date >= moment"),
        ("coalesce(uses, 0) >= uses_allowed", "coalesce(uses, 0) > uses_allowed"),
        ("WHEN deleted THEN", "WHEN false THEN"),
        ("AND start_date IS NULL THEN", "THEN"),
    ],
)
def test_a_wrong_boundary_is_found_out(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert right in promotions.PROMOTIONS
    monkeypatch.setattr(promotions, "PROMOTIONS", promotions.PROMOTIONS.replace(right, wrong))
    with pytest.raises(AssertionError):
        test_an_offer_is_valid_up_to_its_very_boundary(tmp_path)


def test_a_link_that_is_not_encoded_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(rule: offers.OfferRule) -> str:
        return original(rule).replace("url_encode(", "(")

    original = offers._link
    monkeypatch.setattr(offers, "_link", plain)
    with pytest.raises(AssertionError):
        test_odd_codes_survive_the_file_and_their_link(tmp_path)


def test_a_file_that_is_written_every_time_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.is_file", lambda _self: False)
    with pytest.raises(AssertionError):
        test_the_file_is_rewritten_only_when_a_byte_would_be_another(tmp_path)
