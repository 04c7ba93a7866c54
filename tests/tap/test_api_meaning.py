"""What the records of the API streams say, and which of them come, beside what the sandbox's world holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox import catalogue
from piano_engage_sandbox.piano import promotions
from tap_piano.client import PianoClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.server import Server
    from tap_piano.answers import Page

    from tests.tap.conftest import Run, Tap


def of(run: Run, stream: str) -> list[dict[str, Any]]:
    return [message["record"] for message in run.of_type("RECORD") if message["stream"] == stream]


def last_state(run: Run) -> dict[str, Any]:
    return dict(run.of_type("STATE")[-1]["value"])


# Values


def test_terms_are_those_that_were_set_up(settings: dict[str, Any], sync: Tap, select: Callable[..., Any]) -> None:
    run = sync(None, catalog=select("terms"), **settings)
    said = {
        (record["term_id"], record["term_name"], record["aid"], record["resource_id"]) for record in of(run, "terms")
    }
    assert said == {(term.term_id, term.name, settings["aid"], term.resource.rid) for term in catalogue.ALL_TERMS}


def test_promotions_are_all_of_them_expired_ones_too(
    settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    run = sync(None, catalog=select("promotions"), **settings)
    said = {(record["promotion_id"], record["promotion_name"]) for record in of(run, "promotions")}
    assert said == {(one.promotion_id, one.name) for one in promotions.ALL}
    assert "expired" in {record["status"] for record in of(run, "promotions")}


def test_a_promotion_names_the_terms_it_is_for_and_only_such_are_asked_for(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    run = sync(None, catalog=select("promotions"), **settings)
    assert {record["promotion_id"]: record["term_ids"] for record in of(run, "promotions")} == {
        one.promotion_id: sorted(one.terms) if one.terms else None for one in promotions.ALL
    }

    def asked() -> int:
        requests = piano.control("GET", "requests")
        return sum(request["path"].endswith("/promotion/term/list") for request in requests)

    restricted = sum(bool(one.terms) for one in promotions.ALL)
    assert asked() == restricted > 0
    catalog = select("promotions")
    for entry in (entry for stream in catalog["streams"] for entry in stream["metadata"]):
        if entry["breadcrumb"][-1:] == ["term_ids"]:
            entry["metadata"]["selected"] = False
    without = sync(None, catalog=catalog, **settings)
    assert "term_ids" not in of(without, "promotions")[0]
    assert asked() == restricted, "what is not selected is not asked for"


def test_codes_are_those_of_their_promotions(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    run = sync(None, catalog=select("promo_codes"), **settings)
    said = {(r["promo_code_id"], r["promotion_id"], r["promo_code"]) for r in of(run, "promo_codes")}

    def read() -> set[tuple[str, str, str]]:
        (application,) = piano.sandbox.piano.values()
        shelf = piano.sandbox.part(promotions.Promotions).of(application)
        return {(code.code_id, one.promotion_id, code.text) for one in promotions.ALL for code in shelf.codes(one)}

    assert said == piano.call(read)


def test_both_reads_of_a_subscription_agree(settings: dict[str, Any], sync: Tap) -> None:
    run = sync(None, **settings)
    log = {record["subscription_id"]: record for record in of(run, "subscription_log")}
    listed = of(run, "subscriptions")
    assert {record["subscription_id"] for record in listed} == set(log)
    for record in listed:
        row = log[record["subscription_id"]]
        for name in ("aid", "user_id", "term_id", "resource_id", "start_date"):
            assert record[name] == row[name], name


# Which come


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_a_full_table_comes_whole_each_time_and_says_when_it_was_whole(
    method: str, settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    catalog = select("terms")
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["forced-replication-method"] = method
        stream["replication_method"] = method
    first = sync(None, catalog=catalog, **settings)
    again = sync(None, catalog=catalog, state=last_state(first), **settings)
    full = method == "FULL_TABLE"
    assert len(of(first, "terms")) == len(catalogue.ALL_TERMS)
    assert len(of(again, "terms")) == (len(catalogue.ALL_TERMS) if full else 0)
    assert [kind for kind in again.types if kind in {"RECORD", "ACTIVATE_VERSION"}][-1:] == (
        ["ACTIVATE_VERSION"] if full else []
    )


@pytest.mark.parametrize("stream", ["terms", "subscriptions", "promotions"])
def test_nothing_older_than_the_start_date_comes(
    stream: str, settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    whole = of(sync(None, catalog=select(stream), **settings), stream)
    late = of(sync(None, catalog=select(stream), **settings, start_date="2035-01-01T00:00:00Z"), stream)
    early = of(sync(None, catalog=select(stream), **settings, start_date="1999-01-01T00:00:00Z"), stream)
    assert whole
    assert late == []
    assert len(early) == len(whole)


def test_a_term_from_the_start_date_on_comes(settings: dict[str, Any], sync: Tap, select: Callable[..., Any]) -> None:
    whole = of(sync(None, catalog=select("promotions"), **settings), "promotions")
    dates = sorted({record["update_date"] for record in whole})
    assert len(dates) > 2
    since = of(sync(None, catalog=select("promotions"), **settings, start_date=dates[1]), "promotions")
    assert {r["promotion_id"] for r in since} == {r["promotion_id"] for r in whole if r["update_date"] >= dates[1]}


def listings(piano: Server) -> int:
    asked = piano.control("GET", "requests")
    return sum(request["path"].endswith("/promotion/code/list") for request in asked)


def test_codes_are_listed_again_when_their_promotion_moved_and_only_then(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    catalog = select("promo_codes")
    first = sync(None, catalog=catalog, **settings, page_size=5000)
    before = last_state(first)["bookmarks"]["promo_codes"]["promotions"]
    piano.control("DELETE", "requests")
    piano.control("POST", "clock", {"advance": "20d"})
    later = sync(
        None, catalog=catalog, state=last_state(first), **settings, page_size=5000, promo_code_refresh_days=365
    )
    after = last_state(later)["bookmarks"]["promo_codes"]["promotions"]
    moved = {one for one, entry in after.items() if entry["mark"] != before[one]["mark"]}
    assert 0 < len(moved) < len(before)
    come = {record["promotion_id"] for record in of(later, "promo_codes")}
    assert come
    assert come <= moved
    assert listings(piano) == len(moved)


@pytest.mark.parametrize(("days", "again"), [(1, True), (30, False)])
def test_codes_are_listed_again_after_the_days_that_were_set(
    days: int,
    again: bool,  # noqa: FBT001 - a parameter of the test
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    select: Callable[..., Any],
) -> None:
    catalog = select("promo_codes")
    first = sync(None, catalog=catalog, **settings, page_size=5000)
    old = last_state(first)
    for entry in old["bookmarks"]["promo_codes"]["promotions"].values():
        entry["listed"] -= 2 * 86_400
    piano.control("DELETE", "requests")
    later = sync(None, catalog=catalog, state=old, **settings, page_size=5000, promo_code_refresh_days=days)
    assert listings(piano) == (len(old["bookmarks"]["promo_codes"]["promotions"]) if again else 0)
    assert len(of(later, "promo_codes")) == (len(of(first, "promo_codes")) if again else 0)


def test_a_state_without_digests_goes_by_its_bookmark(
    settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    first = sync(None, catalog=select("promotions"), **settings)
    state = last_state(first)
    newest = max(record["update_date"] for record in of(first, "promotions"))
    del state["bookmarks"]["promotions"]["seen"]
    again = sync(None, catalog=select("promotions"), state=state, **settings)
    assert [record["update_date"] for record in of(again, "promotions")] == [newest] * len(of(again, "promotions"))
    assert 0 < len(of(again, "promotions")) < len(of(first, "promotions"))


def test_a_stream_map_is_heard(settings: dict[str, Any], sync: Tap, select: Callable[..., Any]) -> None:
    maps = {"terms": {"label": "term_name.upper()", "__else__": None, "__key_properties__": ["label"]}}
    run = sync(None, catalog=select("terms"), **settings, stream_maps=maps)
    assert sorted(record["label"] for record in of(run, "terms")) == sorted(
        term.name.upper() for term in catalogue.ALL_TERMS
    )
    assert {key for record in of(run, "terms") for key in record} == {"label"}


# A list that moves while it is read


class Between:
    """Lets days pass after some pages of a list."""

    def __init__(self, piano: Server, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
        """Stand between the pages from now on."""
        self.passed = 0
        original = PianoClient._page_at

        def page_at(client: PianoClient, path: str, offset: int, params: dict[str, Any]) -> Page:
            page = original(client, path, offset, params)
            if path == "subscription/list" and self.passed < times:
                self.passed += 1
                piano.control("POST", "clock", {"advance": "1d"})
            return page

        monkeypatch.setattr(PianoClient, "_page_at", page_at)


def subscriptions_of(piano: Server) -> set[str]:
    def read() -> set[str]:
        (application,) = piano.sandbox.piano.values()
        return {entry.id for entry in application.world.entries.values()}

    return piano.call(read)


@pytest.mark.parametrize("order", ["created", "updated", "unstable"])
def test_a_list_that_grows_and_shifts_while_it_is_read_lacks_nothing_and_repeats_nothing(
    order: str,
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    select: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piano.control("POST", "switches", {"publisher.subscription_order": order})
    between = Between(piano, monkeypatch, times=6)
    before = subscriptions_of(piano)
    run = sync(None, catalog=select("subscriptions"), **settings, page_size=40)
    found = [record["subscription_id"] for record in of(run, "subscriptions")]
    assert between.passed == 6
    assert len(found) == len(set(found))
    assert before < set(found) <= subscriptions_of(piano)
    later = sync(None, catalog=select("subscriptions"), state=last_state(run), **settings)
    assert subscriptions_of(piano) <= set(found) | {r["subscription_id"] for r in of(later, "subscriptions")}


def test_a_client_that_reads_such_a_list_once_would_be_noticed(
    piano: Server,
    settings: dict[str, Any],
    sync: Tap,
    select: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piano.control("POST", "switches", {"publisher.subscription_order": "unstable"})
    Between(piano, monkeypatch, times=6)

    def once(client: PianoClient, path: str, id_key: str, **params: Any) -> Any:  # noqa: ANN401, ARG001 - as pages()
        offset = 0
        while items := client._page_at(path, offset, params).items:
            yield items
            offset += len(items)

    monkeypatch.setattr(PianoClient, "pages", once)
    before = subscriptions_of(piano)
    run = sync(None, catalog=select("subscriptions"), **settings, page_size=40)
    found = [record["subscription_id"] for record in of(run, "subscriptions")]
    assert not before <= set(found) or len(found) != len(set(found))


# A cell that cannot be used


def test_a_rejected_row_of_an_export_shows_no_personal_cell(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    content = (
        "Subscription ID,User ID (UID),User email,First name,Total charged,Modify time\n"
        "RC1,U1,ada.planted@example.com,Adaplanted,not a sum,2026-03-20 10:00:00 +0100\n"
        + "".join(f"RC{n},U{n},r{n}@example.com,Reader,1.00,2026-03-20 10:00:00 +0100\n" for n in range(2, 30))
    )
    piano.control("POST", "faults", {"part": "reports", "path": "/rest/export/files/*", "status": 200, "body": content})
    run = tap(None, **settings, max_reject_fraction=0.5)
    assert run.code == 0, run.log
    (entry,) = run.rejects
    assert "not a sum" in json.dumps(entry)
    assert "planted" not in run.log + json.dumps(run.rejects) + run.out.decode()
