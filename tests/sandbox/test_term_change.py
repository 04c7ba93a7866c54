"""Changes of term: asked for, waiting, withdrawn, done; and the options they follow, over HTTP."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from piano_engage_sandbox.actions import option_for
from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.data import log_rows
from piano_engage_sandbox.export import snapshot
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World

STATUS = "term/change/getSubscriptionUpgradeStatus"


class Piano:
    """The Publisher API over HTTP, by POST."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.app = next(iter(server.sandbox.piano.values()))

    def __call__(self, path: str, **params: object) -> dict[str, Any]:
        form = urlencode({"aid": self.app.aid, "api_token": self.app.token, **params}).encode()
        with urlopen(f"{self.server.url}/api/v3/publisher/{path}", form, timeout=20) as answer:  # noqa: S310 - ours
            found: dict[str, Any] = json.load(answer)
        return found

    @property
    def world(self) -> World:
        return self.app.world

    def uid(self, entry: Entry) -> str:
        return self.world.person(entry.reader).uid

    def get(self, subscription_id: str) -> dict[str, Any]:
        whole: dict[str, Any] = self("subscription/get", subscription_id=subscription_id)["subscription"]
        return whole

    def changeable(self, timing: str) -> Entry:
        """Give a live subscription whose first change option has a timing."""
        for entry in self.world.entries.values():
            option = option_for(self.app.change_options, entry)
            plain = entry.state.status == "Active" and entry.state.upgrade_status == "No upgrade"
            if (
                plain
                and entry.state.auto_renew
                and entry.state.paid_periods
                and option
                and option.billing_timing == timing
            ):
                return entry
        raise AssertionError(timing)

    def asked(self, entry: Entry, **other: object) -> dict[str, Any]:
        """Ask for the first change option of a subscription, with its own settings unless others are given."""
        option = option_for(self.app.change_options, entry)
        assert option
        params = {
            "uid": self.uid(entry),
            "subscription_from": entry.id,
            "term_to": option.to_term,
            "billing_timing": option.billing_timing,
            "immediate_access": str(option.immediate_access).lower(),
            "prorate_access": str(option.prorate_access).lower(),
        }
        return self("term/change/do", **params | other)

    def status(self, entry: Entry) -> dict[str, Any]:
        return self(STATUS, uid=self.uid(entry), subscription_id=entry.id)

    def log(self) -> dict[str, dict[str, str]]:
        rows = log_rows(
            rows=self.app.rows, since=self.app.begins, as_of=self.world.now, groups=tuple(GROUPS),
            touched=snapshot(self.world.touched),
        )  # fmt: skip
        return {row["Subscription ID"]: row for row in rows}


@pytest.fixture
def piano() -> Iterator[Piano]:
    with serving() as server:
        yield Piano(server)


def follower(piano: Piano, entry: Entry) -> str:
    (new,) = (each.id for each in piano.world.entries.values() if each.fate.upgraded_from is entry.fate)
    return new


def assert_changed(piano: Piano, entry: Entry, to_term: str) -> None:
    """Hold the API and the log against each other after a change."""
    new = follower(piano, entry)
    assert new != entry.id
    assert (piano.get(entry.id)["status"], piano.get(entry.id)["status_name_in_reports"]) == ("upgraded", "upgraded")
    assert (piano.get(new)["status"], piano.get(new)["term"]["term_id"]) == ("active", to_term)
    assert piano.get(new)["start_date"] == piano.get(entry.id)["end_date"]
    rows = piano.log()
    assert rows[entry.id]["Subscription status"] == "Upgraded"
    assert rows[entry.id]["Upgrade to subscription ID"] == new
    assert (rows[new]["Created via upgrade"], rows[new]["Upgrade from - subscription ID"]) == ("TRUE", entry.id)
    assert rows[new]["Term ID"] == to_term


def to_term_of(piano: Piano, entry: Entry) -> str:
    option = option_for(piano.app.change_options, entry)
    assert option
    return option.to_term


def test_timing_0_changes_the_term_at_once(piano: Piano) -> None:
    entry = piano.changeable("0")
    to_term = to_term_of(piano, entry)
    assert piano("term/change/can", subscription_id=entry.id)["data"] is True
    assert piano.asked(entry)["data"] is True
    assert_changed(piano, entry, to_term)
    assert piano.get(entry.id)["end_date"] == piano.world.now
    assert "subscription_upgrade_status" not in piano.status(entry)


def test_timing_1_changes_the_term_when_the_period_ends(piano: Piano) -> None:
    entry = piano.changeable("1")
    to_term, until = to_term_of(piano, entry), piano.get(entry.id)["next_bill_date"]
    assert piano.asked(entry)["data"] is True
    waiting = piano.status(entry)["subscription_upgrade_status"]
    assert (waiting["status"], waiting["to_term_id"], waiting["from_term_id"]) == (0, to_term, entry.fate.term.term_id)
    assert datetime.fromisoformat(waiting["change_date"]).timestamp() == until
    assert datetime.fromisoformat(waiting["create_date_to"]).timestamp() == piano.world.now
    assert (piano.get(entry.id)["status"], piano.get(entry.id)["will_auto_renew"]) == ("active", False)
    assert piano.log()[entry.id]["Upgrade status"] == "Upgrade pending"
    assert piano("term/change/can", subscription_id=entry.id)["data"] is False
    piano.server.sandbox.now.set(until - 1)
    assert piano.get(entry.id)["status"] == "active"
    piano.server.sandbox.now.set(until + 1)
    assert_changed(piano, entry, to_term)


def test_a_change_that_waits_can_be_withdrawn(piano: Piano) -> None:
    entry = piano.changeable("1")
    before = piano.get(entry.id)
    piano.asked(entry)
    assert piano("term/change/cancel", subscription_from=entry.id)["data"] is True
    assert piano.get(entry.id) == before
    assert "subscription_upgrade_status" not in piano.status(entry)
    piano.server.sandbox.now.set(before["next_bill_date"] + 60)
    assert piano.get(entry.id)["charge_count"] == before["charge_count"] + 1
    assert piano("term/change/cancel", subscription_from=entry.id)["code"] == 1012


@pytest.mark.parametrize(
    "other",
    [
        {"billing_timing": "3"},
        {"prorate_access": "maybe_not"},
        {"term_to": "TMSTAFF00012"},
        {"term_to": "TMN0B0DY0000"},
        {"uid": "00000000-0000-4000-8000-000000000000"},
        {"billing_timing": "now"},
        {"immediate_access": ""},
    ],
)
def test_what_is_no_configured_change_is_refused(piano: Piano, other: dict[str, str]) -> None:
    entry = piano.changeable("0")
    code = {"uid": 2, "prorate_access": 400, "immediate_access": 400}.get(next(iter(other)), 1012)
    if other == {"billing_timing": "now"}:
        code = 400
    assert piano.asked(entry, **other)["code"] == code
    assert piano.get(entry.id)["status"] == "active"
    assert not piano.world.touched


def test_a_second_change_has_to_wait_for_the_first(piano: Piano) -> None:
    entry = piano.changeable("1")
    piano.asked(entry)
    assert piano.asked(entry)["code"] == 1012


def test_settings_may_differ_by_switch() -> None:
    with serving(switches={"publisher.change_settings": "any"}) as server:
        piano = Piano(server)
        entry = piano.changeable("0")
        assert piano.asked(entry, billing_timing="1")["data"] is True
        assert piano.get(entry.id)["status"] == "active"
        assert piano.status(entry)["subscription_upgrade_status"]["status"] == 0


@pytest.mark.parametrize(("answer", "expected"), [("code_1012", (1012, None)), ("data_false", (0, False))])
def test_what_cannot_change_is_answered_by_switch(answer: str, expected: tuple[int, bool | None]) -> None:
    with serving(switches={"publisher.unknown_change": answer}) as server:
        piano = Piano(server)
        staff = next(e for e in piano.world.entries.values() if e.fate.term.term_id == "TMSTAFF00012")
        for subscription_id in (staff.id, "RCNOB0DYHAS1"):
            body = piano("term/change/can", subscription_id=subscription_id)
            assert (body["code"], body.get("data")) == expected


def test_can_finds_the_application_without_its_aid(piano: Piano) -> None:
    query = urlencode({"api_token": piano.app.token, "subscription_id": piano.changeable("0").id})
    url = f"{piano.server.url}/api/v3/publisher/term/change/can?{query}"
    with urlopen(url, timeout=20) as answer:  # noqa: S310 - ours
        assert json.load(answer)["data"] is True


@pytest.mark.parametrize(
    ("answer", "keys"), [("missing", set()), ("null", {"subscription_upgrade_status"}), ("code_1012", {"message"})]
)
def test_without_a_change_the_status_is_a_switch(answer: str, keys: set[str]) -> None:
    with serving(switches={"publisher.upgrade_status_without_change": answer}) as server:
        piano = Piano(server)
        body = piano.status(piano.changeable("0"))
        assert set(body) == {"code", "ts"} | keys
        assert body.get("subscription_upgrade_status") is None
        assert body["code"] == (1012 if answer == "code_1012" else 0)


def made(piano: Piano, one: str, other: str, **more: str) -> dict[str, Any]:
    settings = {"billing_timing": "0", "immediate_access": "true", "prorate_access": "false"}
    return piano("term/change/option/create", from_term_id=one, to_term_id=other, **settings | more)


def test_an_option_that_is_made_can_be_used(piano: Piano) -> None:
    one, other = "TMPREYEAR006", "TMD1GM0NTH01"
    entry = next(
        e
        for e in piano.world.entries.values()
        if e.fate.term.term_id == one and e.state.status == "Active" and e.state.auto_renew
    )
    option = made(piano, one, other, description="Down")["term_change_option"]
    assert (option["from_term_id"], option["to_term_name"], option["description"]) == (one, "Digital monthly", "Down")
    term = piano("term/get", term_id=one)["term"]
    assert option in term["change_options"]
    assert piano.asked(entry, term_to=other, billing_timing="0", immediate_access="true", prorate_access="false")[
        "data"
    ]
    assert_changed(piano, entry, other)


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ("TMN0B0DY0000", "TMD1GM0NTH01", 1001),
        ("TMD1GM0NTH01", "TMN0B0DY0000", 1001),
        ("TMD1GM0NTH01", "TMREG1STER16", 1062),
        ("TMG1FT3MO011", "TMD1GM0NTH01", 1062),
        ("TMCAMPUS0013", "TMD1GM0NTH01", 1062),
        ("TMD1GM0NTH01", "TMPREM0NTH05", 1069),
    ],
)
def test_some_options_cannot_be_made(piano: Piano, one: str, other: str, code: int) -> None:
    count = len(piano.app.change_options)
    assert made(piano, one, other)["code"] == code
    assert len(piano.app.change_options) == count


def test_options_of_one_application_are_not_those_of_another() -> None:
    with serving(apps=(App(rows=20), App(aid="An0therOne", rows=20))) as server:
        first = Piano(server)
        second = Piano(server)
        second.app = server.sandbox.piano["An0therOne"]
        assert made(first, "TMPUZZLES009", "TMD1GM0NTH01")["code"] == 0
        assert made(second, "TMPUZZLES009", "TMD1GM0NTH01")["code"] == 0
