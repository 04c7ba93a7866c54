"""`recurly-engage`: what it says of the ledger, and that it changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import ConfigRefused, NoInput, StorageFailed
from piano_engage_sandbox.testing import serving
from target_recurly_engage.ledger import Ledger

from tests import warm

if TYPE_CHECKING:
    from tests.target.conftest import Engage

COMMAND = Path(sys.executable).with_name("recurly-engage")


def ask(engage: Engage, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
    path = engage.folder / "cli.json"
    path.write_text(json.dumps(engage.config | config), encoding="utf-8")
    done = warm.run("recurly-engage", ["--config", path, *arguments])
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def answer(engage: Engage, *arguments: str, **config: object) -> Any:  # noqa: ANN401 - JSON
    done = ask(engage, *arguments, "--json", **config)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def loaded(engage: Engage) -> Engage:
    """A ledger of twenty readers, of whom Engage was told."""
    assert engage.run(engage.snapshot(engage.subscriptions(20))).code == 0
    return engage


def test_the_plan_after_a_delivery_is_empty(loaded: Engage) -> None:
    told = answer(loaded, "plan")
    assert told["users"] == {"new": 0, "changed": 0, "cleared": 0, "again": 0, "unchanged": 20}
    assert (told["traits"], told["sample"]) == ({}, [])


def test_a_changed_setting_has_exactly_its_consequences_and_nothing_is_kept(loaded: Engage) -> None:
    before = loaded.dump()
    told = answer(loaded, "plan", clear_string="NONE")
    assert told["users"] == {"new": 0, "changed": 20, "cleared": 0, "again": 0, "unchanged": 0}
    assert set(told["traits"]) == {
        "upgrade_status", "trial_status", "billing_period", "resource_id", "resource_name", "term_id", "term_name",
        "template_id", "template_name", "offer_id", "offer_name", "promo_code",
    }  # fmt: skip
    assert len(told["sample"]) == 10
    assert told["sample"][0]["changes"]["promo_code"] == {"from": "none", "to": "NONE"}
    assert told["seconds_at_least"] is None
    assert loaded.dump() == before
    other = answer(loaded, "plan", delivery="ingest", app_id="a", api_key="k", requests_per_second=4)
    assert other["users"] == {"new": 20, "changed": 0, "cleared": 0, "again": 0, "unchanged": 0}
    assert other["seconds_at_least"] == 5.0
    assert loaded.dump() == before
    done = ask(loaded, "plan", clear_string="NONE")
    assert done.stderr == ""
    words = done.stdout
    assert "0 new, 20 changed, 0 cleared, 0 unchanged; delivery: file" in words
    assert "promo_code none → NONE" in words


def test_a_reader_is_explained_by_all_subscriptions_the_primary_one_first(engage: Engage) -> None:
    records = [
        engage.subscription(1, user="ann", access_expiration_date="2026-02-01T00:00:00+00:00", term_name="Old"),
        engage.subscription(2, user="ann", term_name="Daily"),
    ]
    engage.run(engage.snapshot(records))
    told = answer(engage, "plan", "--user", "ann")
    assert [row["term_name"] for row in told["subscriptions"]] == ["Daily", "Old"]
    assert told["told"]["term_name"] == "Daily"
    assert told["to_send"] == {}
    assert told["told_at"]
    words = ask(engage, "plan", "--user", "ann").stdout
    assert "ann: 2 subscription(s), the first is the primary one" in words
    assert "knows no such reader" in ask(engage, "plan", "--user", "nobody").stdout


def test_rejects_are_listed_and_can_be_tried_again_at_once(engage: Engage) -> None:
    with serving(rows=5) as server:
        lines = server.environment()
        names = ("app_id", "api_key", "api_url")
        settings: dict[str, Any] = {name: lines[f"TARGET_RECURLY_ENGAGE_{name.upper()}"] for name in names}
        settings |= {"delivery": "ingest", "requests_per_second": 0, "max_reject_fraction": 1}
        for user in ("u3", "u4"):
            server.control("POST", "faults", {"part": "engage", "user": user, "status": 422, "body": "{}", "times": 1})
        messages = engage.snapshot(engage.subscriptions(6))
        assert engage.run(messages, **settings).code == 0
        assert sorted(row["user_id"] for row in answer(engage, "rejects", "list", **settings)) == ["u3", "u4"]
        assert "2 rejected" in ask(engage, "rejects", "list", **settings).stdout
        assert "rejected with 422" in ask(engage, "plan", "--user", "u3", **settings).stdout
        assert ask(engage, "rejects", "retry", **settings).returncode == 2
        assert ask(engage, "rejects", "retry", "u3", **settings).stdout == "1 will be tried again by the next run\n"
        assert engage.run(messages, **settings).code == 0
        assert [row["user_id"] for row in answer(engage, "rejects", "list", **settings)] == ["u4"]
        assert ask(engage, "rejects", "retry", "--all", **settings).stdout == "1 will be tried again by the next run\n"
        assert engage.run(messages, **settings).code == 0
        assert answer(engage, "rejects", "list", **settings) == []


def test_a_ledger_that_is_not_there_is_not_made(engage: Engage) -> None:
    done = ask(engage, "plan")
    assert done.returncode == NoInput.exit_code
    assert "there is none at" in done.stderr
    assert not engage.ledger.exists()


def test_a_ledger_in_use_is_named_with_who_holds_it(loaded: Engage) -> None:
    ledger = Ledger(loaded.ledger, memory_limit="200MB")
    done = ask(loaded, "plan")
    ledger.close()
    assert done.returncode == StorageFailed.exit_code
    assert "is in use by another run" in done.stderr


def test_settings_that_cannot_be_used_are_named(loaded: Engage) -> None:
    done = ask(loaded, "plan", timezone="Nowhere")
    assert done.returncode == ConfigRefused.exit_code
    assert "timezone: 'Nowhere'" in done.stderr
    done = ask(loaded, "plan", brake_min_rows_fraction=7)
    assert done.returncode == ConfigRefused.exit_code
    for content in ("{", "[1]"):
        (loaded.folder / "cli.json").write_text(content)
        done = subprocess.run(
            [COMMAND, "--config", loaded.folder / "cli.json", "plan"], capture_output=True, text=True, check=False
        )
        assert done.returncode == ConfigRefused.exit_code
        assert "cannot be read as an object of JSON" in done.stderr
