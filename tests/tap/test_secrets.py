"""A planted token and planted personal values leave the tap nowhere but in a column that was asked for."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.transport import Patience, Transport
from tap_piano.client import PianoClient
from tap_piano.reports import ExportOptions

if TYPE_CHECKING:
    from pathlib import Path

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Run, Tap

PLANTED = "planted"
DEBUG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"err": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "plain"}},
    "root": {"level": "DEBUG", "handlers": ["err"]},
}


@pytest.fixture(autouse=True)
def debug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything logged that can be."""
    path = tmp_path / "logging.json"
    path.write_text(json.dumps(DEBUG))
    monkeypatch.setenv("SINGER_SDK_LOG_CONFIG", str(path))


def personal(server: Server) -> set[str]:
    """Addresses and names of the readers."""

    def read() -> set[str]:
        (application,) = server.sandbox.piano.values()
        world = application.world
        people = [world.person(entry.reader) for entry in list(world.entries.values())]
        return {person.email for person in people}

    return server.call(read)


def told(run: Run) -> str:
    """All that a run leaves besides its records."""
    states = json.dumps([message for message in run.messages if message["type"] != "RECORD"])
    rejects = "".join(path.read_text() for path in run.rejects_folder.glob("*"))
    return run.log + states + rejects


def leaks(text: str, secrets: set[str]) -> set[str]:
    return {secret for secret in secrets if secret in text}


FAULTS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "503 once": {"status": 503, "times": 1},
    "reset": {"reset": True, "times": 2},
    "HTML for ever": {"html": True},
    "refused": {"token_refused": True},
    "odd code": {"success_false": True, "code": 9999},
    "dead link": {"path": "/rest/export/files/*", "status": 403},
    "cut download": {"path": "/rest/export/files/*", "truncate": 5000},
}


@pytest.mark.parametrize("members", FAULTS.values(), ids=list(FAULTS))
@pytest.mark.parametrize("token_in", ["query", "header"])
def test_no_token_no_signature_and_no_reader_is_told(
    members: dict[str, Any] | None, token_in: str, piano: Server, settings: dict[str, Any], tap: Tap
) -> None:
    if members:
        piano.control("POST", "faults", members)
    run = tap(None, **settings, reports_token_in=token_in, retry_attempts=2)
    text = told(run)
    assert "DEBUG urllib3.connectionpool" in text
    assert leaks(text, {settings["api_token"], "signature=", "api_token="}) == set()
    assert leaks(text + run.out.decode(), personal(piano)) == set()


def test_the_search_finds_what_is_told(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    run = tap(None, **settings, columns="traits,user_email")
    assert leaks(run.out.decode(), personal(piano))
    assert leaks(run.log + f"GET /x?api_token={settings['api_token']}", {settings["api_token"]})


def test_personal_properties_leave_when_they_are_named(piano: Server, settings: dict[str, Any], tap: Tap) -> None:
    run = tap(None, **settings, columns="traits,user_email,claimed_user")
    for stream in ("subscription_log", "subscriptions"):
        records = [m["record"] for m in run.of_type("RECORD") if m["stream"] == stream]
        assert leaks(json.dumps(records), personal(piano))
        assert all("first_name" not in record for record in records)
    codes = [m["record"] for m in run.of_type("RECORD") if m["stream"] == "promo_codes"]
    assert any((code["claimed_user"] or {}).get("email") for code in codes)
    assert leaks(told(run), personal(piano)) == set()


def test_nothing_shows_the_token_when_it_is_printed() -> None:
    transport = Transport(patience=Patience(), rate=0, logger=logging.getLogger("test"))
    client = PianoClient(
        transport, url="https://example.com", aid="a", token=PLANTED, page_size=10, logger=logging.getLogger("test")
    )
    options = ExportOptions(url="https://example.com", aid="a", token=PLANTED)
    assert PLANTED not in f"{client!r} {options!r} {transport!r}"
