"""The newcomer's path with the actions: a run, the service under Meltano, two clicks, the page, the next run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.parse
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from click.testing import CliRunner
from piano_actions.cli import main

from tests.project.test_sandbox import BIN, ROOT, Newcomer, newcomer_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "a-secret-for-tests-only"  # noqa: S105 - of no use elsewhere
UNTIL = 40.0
MONTHLY, PREMIUM = "Digital monthly", "Premium monthly"


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    with newcomer_in(tmp_path) as one:
        yield one


@contextmanager
def served(user: Newcomer) -> Iterator[str]:
    """`meltano --environment=sandbox invoke piano-actions:serve`, and its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [BIN / "meltano", "--environment=sandbox", "invoke", "--no-install", "piano-actions:serve"]
    variables = os.environ | user.environment() | {"PIANO_ACTIONS_PORT": str(port), "PIANO_ACTIONS_SECRETS": SECRET}
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + UNTIL
        while True:
            try:
                assert requests.get(f"{url}/readyz", timeout=5).ok
                break
            except requests.ConnectionError:
                assert process.poll() is None, process.stdout and process.stdout.read().decode()
                assert time.monotonic() < end
                time.sleep(0.05)
        try:
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def piano(user: Newcomer, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
    base, token = user.lines["PIANO_ACTIONS_API_URL"], user.lines["PIANO_ACTIONS_API_TOKEN"]
    query = {"aid": user.lines["PIANO_ACTIONS_AID"], "api_token": token, **params}
    return requests.get(f"{base}/publisher/{path}", params=query, timeout=30).json()


def clickers(user: Newcomer) -> tuple[dict[str, str], dict[str, str]]:
    """Give a reader who will put an end to renewal, and one who will change; each has one subscription, monthly."""
    rows = user.exported()
    count: dict[str, int] = {}
    for row in rows:
        count[row["User ID (UID)"]] = count.get(row["User ID (UID)"], 0) + 1
    alone = [row for row in rows if count[row["User ID (UID)"]] == 1 and row["Subscription status"] == "Active"]
    one = next(
        row
        for row in alone
        if row["Auto-renew"].lower() == "true" and row["Term type"] == "Dynamic" and row["Trial status"] == "No trial"
    )
    other = next(
        row for row in alone if row["Term name"] == MONTHLY and row["Auto-renew"].lower() == "true" and row != one
    )
    return one, other


def page(user: Newcomer, uid: str) -> str:
    """The sandbox's page about a reader, as a browser gets it."""
    base = user.lines["TARGET_RECURLY_ENGAGE_API_URL"]
    return requests.get(f"{base}/users/{urllib.parse.quote(uid, safe='')}", timeout=30).text


def held(user: Newcomer, uid: str) -> dict[str, Any]:
    return dict(user.control(f"engage/user/{uid}")["traits"])


def until_held(user: Newcomer, uid: str, **traits: str) -> None:
    end = time.monotonic() + UNTIL
    while not traits.items() <= held(user, uid).items():
        assert time.monotonic() < end, {trait: held(user, uid)[trait] for trait in traits}
        time.sleep(0.02)


def test_clicks_under_meltano_show_at_once_and_nothing_is_left_for_the_next_run(newcomer: Newcomer) -> None:
    one, other = clickers(newcomer)
    uid, second = one["User ID (UID)"], other["User ID (UID)"]
    stopped = piano(newcomer, "subscription/cancel/deferred", subscription_id=one["Subscription ID"])
    assert stopped["code"] == 0, stopped
    newcomer.control("clock", {"advance": "11m"})  # for ten minutes Piano gives the same export again
    newcomer.run()
    newcomer.control("clock", {"advance": "1m"})
    newcomer.files_read(1)
    before = held(newcomer, uid)
    assert (before["auto_renew"], before["segment_cancel_pending"]) == ("false", "true")
    headers = {"Authorization": f"Bearer {SECRET}"}
    with served(newcomer) as url:
        newcomer.control("webhooks", {"url": f"{url}/webhooks/piano"})
        asked = {"user_id": uid, "offer": "win back"}
        answer = requests.post(f"{url}/actions/resubscribe", json=asked, headers=headers, timeout=30).json()
        assert (answer["status"], answer["details"]["subscription_id"]) == ("done", one["Subscription ID"])
        until_held(newcomer, uid, auto_renew="true", lifecycle_stage="active", segment_cancel_pending="false")
        asked = {"user_id": second, "to_term": PREMIUM}
        answer = requests.post(f"{url}/actions/upgrade", data=asked, headers=headers, timeout=30).json()
        assert (answer["status"], answer["reason"]) == ("done", "changed"), answer
        until_held(newcomer, second, term_name=PREMIUM, subscription_id=answer["details"]["subscription_id"])
    assert ">true<" in page(newcomer, uid)
    assert PREMIUM in page(newcomer, second)
    after = {who: held(newcomer, who) for who in (uid, second)}

    newcomer.control("clock", {"advance": "11m"})
    newcomer.run()
    newcomer.control("clock", {"advance": "1m"})
    now = {who: held(newcomer, who) for who in after}
    assert now[uid] == after[uid]
    only_the_log_knows = {"total_charged", "offer_id", "offer_name", "template_id", "template_name", "promo_code"}
    changed = {trait for trait, value in now[second].items() if value != after[second][trait]}
    assert changed <= only_the_log_knows | {"has_used_promo"}
    log = {row["Subscription ID"]: row for row in newcomer.exported()}
    for traits in now.values():
        row = log[traits["subscription_id"]]
        assert {trait: traits[trait] for trait in ("auto_renew", "term_name", "next_billing_date")} == {
            "auto_renew": row["Auto-renew"].lower(), "term_name": row["Term name"],
            "next_billing_date": row["Next billing date"][:10],
        }  # fmt: skip


def test_what_stands_in_meltano_yml_of_the_loader_reaches_the_utility() -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    plugins = project["plugins"]
    (loader,) = [one for one in plugins["loaders"] if one["name"] == "target-recurly-engage"]
    (utility,) = [one for one in plugins["utilities"] if one["name"] == "piano-actions"]
    inside = {one["name"]: one for one in utility["settings"] if one["name"].startswith("target.")}
    assert [name.removeprefix("target.") for name in inside] == [one["name"] for one in loader["settings"]]
    for one in loader["settings"]:
        found = inside[f"target.{one['name']}"]
        assert found["env_aliases"] == [f"TARGET_RECURLY_ENGAGE_{one['name'].upper()}"]
        assert [found.get(key) for key in ("kind", "sensitive", "value")] == [
            one.get(key) for key in ("kind", "sensitive", "value")
        ]
    assert utility["config"]["target"] == loader["config"]
    for environment in project["environments"]:
        configs = {one["name"]: one["config"] for kind in environment["config"]["plugins"].values() for one in kind}
        if "piano-actions" in configs:
            assert configs["piano-actions"]["target"] == configs["target-recurly-engage"]


@pytest.mark.parametrize("name", ["serve", "recover", "audit", "webhooks", "quarantine", "pending", "send", "erase"])
def test_the_commands_of_the_utility_are_commands(name: str) -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    (utility,) = [one for one in project["plugins"]["utilities"] if one["name"] == "piano-actions"]
    answer = CliRunner().invoke(main, [*utility["commands"][name]["args"].split(), "--help"])
    assert answer.exit_code == 0, answer.output
