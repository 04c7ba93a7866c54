"""A first load: without history, a column that is missing or looks empty holds the run until a person has looked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.target.test_brake import fingerprint, goes_through_once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.target.conftest import Engage, Message, Record

USUAL = ("access_expiration_date", "subscription_status", "term_id", "term_name", "start_date")


def lacking(engage: Engage, *gone: str, more: tuple[str, ...] = ()) -> list[str]:
    return [name for name in (*engage.schema()["schema"]["properties"], *more) if name not in gone]


def held_back(engage: Engage, messages: Iterable[Message]) -> str:
    before = engage.files
    run = engage.run(messages)
    assert (run.code, run.states, engage.files) == (80, [], before), run.log
    return run.errors


def test_a_mistyped_column_holds_the_first_load_and_a_setting_lets_it_through(engage: Engage) -> None:
    properties = lacking(engage, "access_expiration_date", more=("acess_expiration_date",))
    messages = engage.snapshot(engage.subscriptions(5), properties=properties)
    said = held_back(engage, messages)
    assert "first load: of the export, access_expiration_date did not come" in said
    assert "there is 'acess_expiration_date': did you mean 'access_expiration_date'" in said
    assert "leave them out: traits: all,-access_expiration_date" in said
    assert engage.run(messages, traits="all,-access_expiration_date").code == 0
    assert "access_expiration_date" not in engage.sent()["u1"]
    later = engage.run(engage.snapshot(engage.subscriptions(6), properties=properties))
    assert later.code == 80, "without the setting it is the first time that the trait comes"


def test_an_accepted_first_load_needs_no_setting_afterwards(engage: Engage) -> None:
    messages = engage.snapshot(engage.subscriptions(5), properties=lacking(engage, "promo_code", "offer_id"))
    said = held_back(engage, messages)
    assert "first load: of the export, offer_id, promo_code did not come" in said
    goes_through_once(engage, messages, fingerprint(said))
    assert engage.run(messages).code == 0


def test_a_small_export_is_told_the_whole_line(engage: Engage) -> None:
    few = ["subscription_id", "user_id", "start_date", "term_name"]
    messages = engage.snapshot(engage.subscriptions(3), properties=few)
    said = held_back(engage, messages)
    line = "subscription_id,start_date,term_name"
    assert f"leave them out: traits: {line} " in f"{said} ".replace(".", " ")
    assert engage.run(messages, traits=line).code == 0


def test_a_trait_that_is_wanted_later_is_a_first_load_of_its_own(engage: Engage) -> None:
    properties = lacking(engage, "promo_code")
    assert (
        engage.run(engage.snapshot(engage.subscriptions(5), properties=properties), traits="all,-promo_code").code == 0
    )
    assert "promo_code did not come" in held_back(
        engage, engage.snapshot(engage.subscriptions(5), properties=properties)
    )


def test_a_trait_that_is_left_out_and_unknown_is_named(engage: Engage) -> None:
    run = engage.run(engage.snapshot(engage.subscriptions(1)), traits="all,-promo_cod")
    assert run.code == 78
    assert "-promo_cod is no trait; did you mean promo_code" in run.errors


def test_columns_that_are_nearly_always_filled_and_look_empty_hold_the_first_load(engage: Engage) -> None:
    records = full(engage, 500)
    for record in records[3:]:
        record.update(dict.fromkeys(USUAL))
    said = held_back(engage, engage.snapshot(records))
    for column in USUAL:
        assert f"first load: only 3 of 500 rows of the export have {column} (below " in said


def full(engage: Engage, count: int, **values: object) -> list[Record]:
    return [engage.subscription(n, term_id="T", term_name="M") | values for n in range(count)]


def test_a_small_load_and_one_with_access_without_end_pass(engage: Engage) -> None:
    assert engage.run(engage.snapshot(full(engage, 400, access_expiration_date=None))).code == 0
    other = type(engage)(engage.folder / "other")
    other.folder.mkdir()
    some = [*full(engage, 240, access_expiration_date=None), *full(engage, 520)[240:]]
    assert other.run(other.snapshot(some)).code == 0


def test_a_brake_that_does_not_look_at_first_loads_would_be_noticed(engage: Engage) -> None:
    """The broken doubles: both are sent without a word."""
    double = (
        "from target_recurly_engage import sources\n"
        "sources.never_delivered = lambda *_: []\nsources.empty_columns = lambda *_: iter(())"
    )
    records = full(engage, 520, subscription_status=None)
    messages = engage.snapshot(records, properties=lacking(engage, "access_expiration_date"))
    assert engage.run(messages, script=double).code == 0
    assert {row["access_expiration_date"] for row in engage.sent().values()} == {"9999-12-31"}
