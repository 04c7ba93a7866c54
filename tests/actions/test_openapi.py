"""The service against its own description: schemathesis asks what it allows, and much that it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from piano_actions.outcome import Outcome
from piano_actions.service import app as app_module
from piano_actions.service.asked import FORM, JSON
from piano_actions.service.gate import Gate
from piano_actions.service.problems import Turned

from tests.actions.conftest import Piano, settings_for
from tests.actions.test_promos import SPRING, SUMMER
from tests.actions.test_service import SECRET, Service, served
from tests.actions.test_upgrade import MONTHLY, PREMIUM, YEARLY
from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = {"/healthz", "/readyz", "/webhooks/piano"}
"""Paths that want no secret; webhooks want Piano's encryption."""
EXAMPLES = 3 * ROUNDS**2
PATIENCE = 200 * ROUNDS


@contextmanager
def described(piano: Piano, folder: Path) -> Iterator[Service]:
    sandbox = piano.server.sandbox
    target = folder / "target.json"
    target.write_text(json.dumps({"app_id": sandbox.app_id, "api_key": sandbox.api_key, "api_url": piano.server.url}))
    settings = settings_for(
        piano, folder, target_config=str(target), push=False, tracker="t1", private_key=piano.app.private_key,
        actions_per_second=0, upgrade_wait=0,
    )  # fmt: skip
    with served(settings, folder) as one:
        yield one


@pytest.fixture(scope="module")
def service(reading: Piano, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with described(reading, tmp_path_factory.mktemp("described")) as one:
        yield one


def examined(service: Service, reading: Piano, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis on the service; half of the readers it asks for are there."""
    entries = list(reading.world.entries.values())[:40]
    words = {
        "user_id": [reading.uid(entry) for entry in entries],
        "subscription_id": [entry.id for entry in entries],
        "to_term": [PREMIUM, YEARLY, MONTHLY],
        "promotion": [SUMMER, SPRING, "BACK30"],
    }
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}\n" for name, values in words.items()]
    lines += ["[parameters]\n", *(f'"body.{name}" = {{dictionary="{name}", probability=0.5}}\n' for name in words)]
    config = folder / "schemathesis.toml"
    config.write_text("".join(lines))
    return subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run", f"{service.url}/openapi.json",
         "--header", f"Authorization: Bearer {SECRET}", "--continue-on-failure", "--no-shrink", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_nothing_that_it_allows_or_forbids_makes_the_service_break_its_word(
    service: Service, reading: Piano, tmp_path: Path
) -> None:
    found = examined(service, reading, tmp_path, "--max-examples", str(EXAMPLES))
    assert found.returncode == 0, found.stdout
    assert "10 selected / 10 total" in found.stdout


def test_a_double_that_breaks_its_word_in_every_way_is_found_out(
    reading: Piano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, turns = app_module.request_of, cycle(("fault", "not described", "broken"))

    def request_of(*given: Any) -> Any:  # noqa: ANN401 - of ours
        turn = next(turns)
        if turn == "fault":
            raise ZeroDivisionError(turn)
        if turn == "not described":
            raise Turned(418, "teapot", turn)
        return real(*given)

    monkeypatch.setattr(app_module, "request_of", request_of)
    monkeypatch.setattr(Gate, "lets_in", lambda *_: True)
    monkeypatch.setattr(Outcome, "as_dict", lambda one: {"action": one.action})
    with described(reading, tmp_path) as service:
        found = examined(
            service, reading, tmp_path, "--phases", "coverage", "--include-path-regex", "conversion|metrics"
        )
    assert found.returncode == 1
    for said in ("ST101 Server error", "ST103", "ST108", "ST401 API accepts requests without authentication"):
        assert said in found.stdout, found.stdout


def test_without_the_secret_no_operation_does_anything(service: Service) -> None:
    secured = {
        path for path, one in service.described["paths"].items() if any("security" in way for way in one.values())
    }
    assert set(service.described["paths"]) - secured == OPEN
    assert len(secured) == 6
    for path in secured:
        for method in service.described["paths"][path]:
            for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {SECRET}"}):
                for kind in (JSON, FORM):
                    answer = requests.request(
                        method, f"{service.url}{path}", data="{}", headers={**headers, "Content-Type": kind}, timeout=20
                    )
                    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


def test_what_the_models_say_is_what_is_taken(service: Service) -> None:
    taken = ["u", 7, 7.0, " ü ", "ж", "u" * 200]
    refused = [True, -1, 7.5, 2**53, ["u"], {}, None, "", "  ", "u" * 201, "a\nb", "\x7f"]
    for value, status in [(value, 200) for value in taken] + [(value, 422) for value in refused]:
        assert service.post("conversion", {"user_id": value, "tracker": "t", "more": [{}]}).status_code == status, value
    for text in (b'{"user_id": NaN}', b'{"user_id": 1e999}', b'{"user_id": Infinity}'):
        assert service.post("conversion", text).status_code == 422


def test_whatever_goes_wrong_is_answered_alike(service: Service) -> None:
    away = [
        requests.get(f"{service.url}/nothing", timeout=20),
        requests.delete(f"{service.url}/actions/resubscribe", headers=service.headers, timeout=20),
        service.post("resubscribe/", {"user_id": "u"}),
        service.post("../actions/x", {"user_id": "u"}),
    ]
    assert [(one.status_code, set(one.json())) for one in away] == [
        (status, {"error", "message"}) for status in (404, 405, 404, 404)
    ]
    assert away[1].headers["Allow"] == "POST"
    for path in set(service.described["paths"]) - OPEN - {"/metrics"}:
        assert set(service.described["paths"][path]["post"]["responses"]) == {
            "200", "400", "401", "408", "409", "413", "415", "422", "429", "500", "502", "503",
        }  # fmt: skip
