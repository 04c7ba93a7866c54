"""What `tap-piano --test` says in words, and what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import AccessRefused
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving
from tap_piano.diagnosis import diagnose, skew_words
from tap_piano.tap import TapPiano

from tests.tap.conftest import settings_for

if TYPE_CHECKING:
    import logging

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Tap


def test_all_is_well_and_costs_one_request_a_stream(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    run = tap(None, "--test", **settings)
    assert run.code == 0, run.log
    assert "All is well: 8 stream(s) can be read" in run.log
    paths = [one["path"].partition("/publisher/")[2] or "status" for one in piano.control("GET", "requests")]
    assert sorted(paths) == [
        "offer/list",
        "promotion/code/list",
        "promotion/list",
        "resource/list",
        "status",
        "subscription/list",
        "term/list",
    ]
    assert "ERROR" not in run.log


def test_a_clock_that_is_off_is_told(settings: dict[str, Any], tap: Tap) -> None:
    run = tap(None, "--test", **settings)
    assert "behind this machine's" in run.log
    assert "set this machine's clock (NTP)" in run.log


@pytest.mark.parametrize(("skew", "words"), [(None, None), (59.0, None), (-60.0, None), (3600.0, "3,600 s ahead of")])
def test_clocks_that_differ_little_are_taken_for_alike(skew: float | None, words: str | None) -> None:
    said = skew_words(skew)
    assert (said is None) == (words is None)
    assert words is None or words in str(said)


def test_a_token_that_nobody_takes_is_told(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    config = full({**settings, "api_token": "none-of-theirs"})
    with serving(rows=20) as other:
        said = diagnose(config, logger_of(caplog), {"us": config["api_url"], "eu": f"{other.url}/api/v3"})
    assert "refused here and in every other region" in said


def test_the_region_that_takes_the_token_is_named(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with serving(rows=20, seed=7) as other:
        config = full({**settings, "api_token": settings_for(other)["api_token"]})
        regions = {"us": config["api_url"], "eu": f"{other.url}/api/v3", "au": "http://127.0.0.1:9/api/v3"}
        said = diagnose(config, logger_of(caplog), regions)
    assert "the region is wrong" in said
    assert "set region to eu" in said


def test_an_application_that_is_not_the_token_s_is_told(tap: Tap) -> None:
    with serving(apps=(App(aid="OneAppId01", rows=20), App(aid="TwoAppId02", rows=20))) as server:
        run = tap(None, "--test", **settings_for(server, aid="TwoAppId02"))
    assert run.code == AccessRefused.exit_code
    assert "the token is accepted, but not for the application 'TwoAppId02'" in run.errors


def test_a_reports_api_that_is_not_permitted_is_told(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    piano.control("POST", "faults", {"part": "reports", "token_refused": True})
    run = tap(None, "--test", **settings)
    assert run.code == AccessRefused.exit_code
    assert "so the Reports API is what is not permitted" in run.errors
    assert "Traceback" not in run.log


def test_schemas_and_discovery_ask_for_nothing(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    schemas = tap(None, "--test=schema", **settings)
    found = tap(None, "--discover", **settings)
    assert (schemas.code, found.code) == (0, 0)
    assert len(schemas.of_type("SCHEMA")) == 8
    assert b'"promo_codes"' in found.out
    assert piano.control("GET", "counters")["requests"] == 0


def test_without_a_token_there_is_only_the_log(sample: Any, tap: Tap) -> None:  # noqa: ANN401 - a path
    found = tap(sample, "--discover")
    assert b'"subscription_log"' in found.out
    assert b'"promo_codes"' not in found.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aid": None}, "aid: is missing"),
        ({"api_url": "api.piano.io"}, "api_url: is no base URL"),
        ({"reports_url": "https://user:secret@example.com/rest"}, "reports_url: is no base URL"),
        ({"request_timeout": 0}, "request_timeout: takes more than 0 seconds"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    change: dict[str, Any], words: str, settings: dict[str, Any], tap: Tap
) -> None:
    merged = {name: value for name, value in {**settings, **change}.items() if value is not None}
    run = tap(None, **merged)
    assert run.code == 78
    assert words in run.errors
    assert "secret" not in run.log


def full(config: dict[str, Any]) -> dict[str, Any]:
    """Complete settings with their defaults."""
    return dict(TapPiano(config=config, setup_mapper=False).config)


def logger_of(_caplog: pytest.LogCaptureFixture) -> logging.Logger:
    return TapPiano.logger
