"""Sentences for users: days by the calendar of the configured zone, and languages of the settings."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from piano_actions.outcome import Outcome, Status
from piano_actions.settings import settings_of
from piano_actions.words import FRAGMENTS, SENTENCES, Wording, outcome
from piano_engage_common.stops import ConfigRefused

from tests.actions.test_service import served

if TYPE_CHECKING:
    from pathlib import Path

    from tests.actions.conftest import Piano

DUTCH = {
    "resumed": "Welkom terug!{next_bill}", "next_bill": " U betaalt weer op {next_billing_day}.",
    "promotion_new_only": "Deze aanbieding is voor nieuwe klanten.",
}  # fmt: skip


def resumed(moment: str | None) -> Outcome:
    return outcome("resubscribe", Status.DONE, "resumed", next_billing_date=moment)


@pytest.mark.parametrize(
    ("moment", "zone", "day"),
    [
        ("2026-03-28T23:30:00+00:00", "Europe/Amsterdam", "2026-03-29"),
        ("2026-03-28T22:59:59+00:00", "Europe/Amsterdam", "2026-03-28"),
        ("2026-03-29T22:00:00+00:00", "Europe/Amsterdam", "2026-03-30"),  # in summer time from that night on
        ("2026-03-28T18:30:00+00:00", "Asia/Kolkata", "2026-03-29"),
        ("2026-03-28T18:29:59+00:00", "Asia/Kolkata", "2026-03-28"),
        ("2026-04-04T13:15:00+00:00", "Australia/Lord_Howe", "2026-04-05"),  # half an hour of summer time
        ("2026-04-05T13:15:00+00:00", "Australia/Lord_Howe", "2026-04-05"),
        ("2026-03-29T02:00:00+00:00", "America/New_York", "2026-03-28"),
        ("2026-03-29T01:30:00+02:00", "UTC", "2026-03-28"),
    ],
)
def test_a_day_is_one_of_the_zone(moment: str, zone: str, day: str) -> None:
    wording = Wording(zone)
    assert f"the next payment is due on {day}." in wording.say(resumed(moment)).message
    waits = outcome("upgrade", Status.PENDING, "change_pending", term_name="Premium", change_date=moment)
    assert f"takes effect on {day}." in wording.say(waits).message


def test_an_end_at_midnight_is_the_day_before() -> None:
    assert Wording("Europe/Amsterdam").last_day("2026-03-28T23:00:00+00:00") == "2026-03-28"
    assert Wording("Europe/Amsterdam").last_day("2026-03-28T23:00:01+00:00") == "2026-03-29"
    assert Wording().last_day(None) == ""


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("nl", "Welkom terug! U betaalt weer op 2026-03-29."),
        ("NL_be", "Welkom terug! U betaalt weer op 2026-03-29."),
        ("fr-CH", "Rebonjour"),
        ("fr", "Welcome back! Your subscription goes on; the next payment is due on 2026-03-29."),
        ("en", "Welcome back! Your subscription goes on; the next payment is due on 2026-03-29."),
        ("en-GB", "Welcome back! Your subscription goes on; the next payment is due on 2026-03-29."),
        (None, "Welcome back! Your subscription goes on; the next payment is due on 2026-03-29."),
    ],
)
def test_sentences_are_replaced_by_language(language: str | None, message: str) -> None:
    wording = Wording("Europe/Amsterdam", {"nl": DUTCH, "fr-CH": {"resumed": "Rebonjour"}})
    found = resumed("2026-03-28T23:30:00+00:00")
    assert wording.say(found, language).message == message
    assert wording.say(found, language).details == found.details


def test_the_usual_language_is_a_setting_and_what_has_no_sentence_stays_english() -> None:
    wording = Wording(sentences={"nl": DUTCH, "en": {"eligible": "Yours."}}, language="nl")
    assert wording.say(resumed(None)).message == "Welkom terug!"
    assert wording.say(resumed(None), "fr").message == "Welkom terug!"
    assert wording.say(outcome("promo", Status.DONE, "eligible")).message == SENTENCES["eligible"]
    assert wording.say(outcome("promo", Status.DONE, "eligible"), "en").message == "Yours."


@pytest.mark.parametrize("reason", SENTENCES)
def test_every_sentence_can_be_replaced_and_names_places_that_there_are(reason: str) -> None:
    everything = {name: name for name in ("term_name", "code", "promotion_name", "seen")}
    found = outcome("any", Status.DONE, reason, **everything)
    assert "{" not in found.message
    assert Wording(sentences={"nl": {reason: "Anders."}}).say(found, "nl").message == "Anders."


@pytest.mark.parametrize(
    ("sentences", "told"),
    [
        ({"nl": {"resumd": "Welkom"}}, "nl.resumd: there is no such reason"),
        ({"nl": {"resumed": "Hoi {name}"}}, "nl.resumed: there is no place {name}; a sentence may name term_name"),
        ({"nl": {"resumed": "Welkom {code"}}, "nl.resumed: its braces do not match"),
        ({"nl": {"resumed": "{code.__class__}"}}, "nl.resumed: there is no place {code.__class__}"),
        ({"nl": {"next_bill": "{next_bill}"}}, "nl.next_bill: there is no place {next_bill}"),
        ("nowhere.json", "nowhere.json cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_stops_at_start_up(sentences: Any, told: str, tmp_path: Path) -> None:  # noqa: ANN401 - a setting
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"aid": "A", "api_token": "T", "sentences": sentences}))
    with pytest.raises(ConfigRefused) as refused:
        settings_of(path)
    assert f"sentences: Value error, {told}" in str(refused.value)
    assert "PIANO_ACTIONS_SENTENCES" in str(refused.value)


@pytest.mark.parametrize("by_file", [True, False])
def test_sentences_come_from_the_environment(by_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a case
    given = json.dumps({"nl": DUTCH})
    if by_file:
        (tmp_path / "sentences.json").write_text(given, encoding="utf-8")
        given = str(tmp_path / "sentences.json")
    for name, value in {"AID": "A", "API_TOKEN": "T", "LANGUAGE": "nl", "SENTENCES": given}.items():
        monkeypatch.setenv(f"PIANO_ACTIONS_{name}", value)
    assert settings_of().wording("UTC").say(resumed(None)).message == "Welkom terug!"
    assert set(FRAGMENTS) == {"next_bill", "takes_effect"}


def test_the_service_answers_in_the_language_and_the_zone_of_the_user(
    piano: Piano, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clicks with one key are one request, whatever their languages."""
    zone = "Pacific/Kiritimati"  # 14 hours ahead: most moments lie on another day than in UTC
    monkeypatch.setenv("TARGET_RECURLY_ENGAGE_TIMEZONE", zone)
    entry = piano.stopping("Dynamic")
    with served({**settings, "sentences": {"nl": DUTCH}}, tmp_path) as service:
        told = {}
        for language in ("nl", "nl-BE", "fr", None):
            body = {"user_id": piano.uid(entry), "offer": "win back", "language": language}
            status, told[language] = service.ask("resubscribe", body)
            assert (status, told[language]["reason"]) == (200, "resumed")
    assert piano.calls("subscription/resume") == 1
    moment = datetime.fromisoformat(told[None]["details"]["next_billing_date"])
    day = moment.astimezone(ZoneInfo(zone)).date().isoformat()
    assert told["nl"]["message"] == told["nl-BE"]["message"] == f"Welkom terug! U betaalt weer op {day}."
    assert told["fr"]["message"] == told[None]["message"]
    assert told[None]["message"].endswith(f"the next payment is due on {day}.")
    assert day != (moment - timedelta(hours=14)).date().isoformat()
