"""What docs/actions.md says about setting the service up, tried step by step against the sandbox."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from click.testing import CliRunner
from piano_actions.cli import main
from piano_engage_sandbox.piano.webhooks import Webhooks
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.ui import WebDriverWait

from tests.actions.conftest import settings_for
from tests.actions.nights import Nights
from tests.actions.test_service import SECRET, served
from tests.actions.test_upgrade import MONTHLY, on
from tests.sandbox.test_page_browser import browser, chromium

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from selenium import webdriver

    from tests.actions.conftest import Piano

__all__ = ["browser", "chromium"]

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "plugins" / "piano-actions"
DOCUMENT = (ROOT / "docs" / "actions.md").read_text(encoding="utf-8")
CONTAINER = (PLUGIN / "Containerfile").read_text(encoding="utf-8")
UNIT = (PLUGIN / "piano-actions.service").read_text(encoding="utf-8")
FULL = int(os.environ.get("FAULT_ROUNDS", "1")) >= 10


def commands() -> list[str]:
    """The lines of all shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    lines = [line.removeprefix(".venv/bin/") for line in joined.splitlines() if line.strip() and line[0] != "#"]
    return [line.split("  #")[0].strip() for line in lines]


def test_every_command_of_piano_actions_in_the_document_is_one() -> None:
    found = [
        shlex.split(line)
        for line in commands()
        if line.startswith(("piano-actions", "meltano")) and "piano-actions" in line
    ]
    asked = []
    for words in found:
        given = (
            words[1:]
            if words[0] == "piano-actions"
            else words[words.index("invoke") + 1 :]
            if "invoke" in words
            else []
        )
        if words[0] == "meltano":
            given = [part for word in given for part in word.split(":")][1:]
        options = [word for word in given if word.startswith("--")]
        names = given[: next((at for at, word in enumerate(given) if word.startswith("--")), len(given))]
        if not given:
            continue
        while names:  # arguments follow the names of commands
            answer = CliRunner().invoke(main, [*names, "--help"])
            if answer.exit_code == 0 and f"{names[-1]} " in answer.output.splitlines()[0] + " ":
                break
            names.pop()
        assert names, words
        assert [one for one in options if one not in answer.output] == [], words
        asked.append(names[0])
    assert {"resubscribe", "upgrade", "promo", "serve", "webhooks", "recover"} <= set(asked)


def test_the_names_that_meltano_knows_are_in_the_document() -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    (utility,) = [one for one in project["plugins"]["utilities"] if one["name"] == "piano-actions"]
    (sentence,) = re.findall(r"^`meltano invoke piano-actions:NAME` knows (.*)\.$", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", sentence)) == set(utility["commands"])


def test_the_api_action_as_it_is_set_up_in_pulse(piano: Piano, settings: dict[str, Any], tmp_path: Path) -> None:
    parts = dict(re.findall(r"^   \| (URL|Method|Header|Payload) \| `(.*)` \|$", DOCUMENT, re.MULTILINE))
    entry = piano.stopping("Dynamic")
    with served(settings, tmp_path) as service:
        url = parts["URL"].replace("https://actions.example.com", service.url)
        name, value = parts["Header"].replace("%provider.client_secret%", SECRET).split(": ")
        payload = json.loads(parts["Payload"].replace("…", piano.uid(entry)))
        answer = requests.request(parts["Method"], url, headers={name: value}, json=payload, timeout=20)
        assert (answer.status_code, answer.json()["status"]) == (200, "done")
        form = requests.request(parts["Method"], url, headers={name: value}, data=payload, timeout=20)
        assert form.json() == answer.json(), "the same key"
    assert entry.state.auto_renew


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_lines_work(piano: Piano, settings: dict[str, Any], tmp_path: Path) -> None:
    entry = piano.stopping("Dynamic")
    known = settings | {"private_key": piano.app.private_key}
    lines = [line for line in commands() if line.startswith("curl")]
    assert len(lines) >= 4
    with served(known, tmp_path) as service:
        for line in lines:
            run = line.replace("http://127.0.0.1:8787", service.url).replace("localhost:8765", piano.server.url)
            run = run.replace("$PIANO_ACTIONS_SECRETS", SECRET).replace("UID", piano.uid(entry))
            done = subprocess.run(["sh", "-c", f"{run} --fail -s"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (run, done.stdout, done.stderr)
        hooks = piano.server.sandbox.part(Webhooks)
        log = piano.server.call(lambda: hooks.log(piano.app.aid))
        assert log, "the moved clock causes events"
    assert entry.state.auto_renew


@pytest.mark.xdist_group("browser")
def test_after_a_click_the_page_shows_the_new_traits(piano: Piano, tmp_path: Path, browser: webdriver.Chrome) -> None:
    entry = piano.stopping("Dynamic")
    other = piano.find(lambda one: on(MONTHLY)(one) and piano.alone(one) and one is not entry)
    uid, second = piano.uid(entry), piano.uid(other)
    nights = Nights(piano, tmp_path)
    nights.run()
    with served(settings_for(piano, tmp_path, target_config=str(nights.config)), tmp_path) as service:
        watch(browser, piano, uid)
        before = shown(browser)
        assert (before["auto_renew"], before["lifecycle_stage"]) == ("false", "pending_cancel")
        assert service.ask("resubscribe", {"user_id": uid, "offer": "win back"})[1]["status"] == "done"
        until_shown(browser, auto_renew="true", lifecycle_stage="active", segment_cancel_pending="false")
        watch(browser, piano, second)
        form = f"user_id={second}&to_term=Premium+monthly".encode()
        answer = service.post("upgrade", form, Content_Type="application/x-www-form-urlencoded").json()
        assert answer["reason"] == "changed", answer
        until_shown(browser, term_name="Premium monthly", subscription_id=answer["details"]["subscription_id"])
    writes = nights.writes(uid)
    nights.run()
    assert nights.writes(uid) == writes, "the night has nothing to add"


def watch(browser: webdriver.Chrome, piano: Piano, uid: str) -> None:
    """Open the page of a reader so that it loads itself again each second, as a person would who watches it."""
    browser.get(f"{piano.server.url}/users/{uid}?refresh=1")


def shown(browser: webdriver.Chrome) -> dict[str, str]:
    """Give the traits that the page shows, all of one moment."""
    return dict(browser.execute_script(
        "return [...document.querySelectorAll('#traits tbody tr')].map("
        "row => [row.querySelector('th').textContent, row.querySelector('td').textContent])"
    ))  # fmt: skip


def until_shown(browser: webdriver.Chrome, **traits: str) -> None:
    """Wait for the page to show values, without touching it."""
    waiting = WebDriverWait(browser, 30, 0.1, ignored_exceptions=[WebDriverException])  # it is loading
    waiting.until(lambda one: traits.items() <= shown(one).items(), str(traits))


@pytest.mark.xdist_group("browser")
def test_the_website_action_leads_to_the_checkout_with_the_code(
    piano: Piano, settings: dict[str, Any], tmp_path: Path, browser: webdriver.Chrome, ask: Callable[..., Result]
) -> None:
    """The checkout is an address of this machine that speaks no TLS, so the browser shows only that it went there."""
    site = piano.server.url.replace("http://", "https://")
    template = f"{site}/buy?offer={{offer_id}}&promo={{code}}"
    (tmp_path / "config.json").write_text(json.dumps({**settings, "checkout_url": template}))
    uid = piano.uid(piano.stopping("Dynamic"))
    line = ask("promo", "code", "--user", uid, "--promotion", "BACK30", "--offer", "O&1 ü", "--snippet").stdout
    browser.get(piano.server.url)
    browser.execute_script(line)
    WebDriverWait(browser, 30).until(lambda one: one.current_url.startswith(site))
    assert browser.current_url == f"{site}/buy?offer=O%261%20%C3%BC&promo=BACK30"


# The unit and the image


def test_the_unit_is_well_formed_and_its_command_serves(piano: Piano, tmp_path: Path) -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    program = Path(sys.executable).with_name("piano-actions")
    path = tmp_path / "piano-actions.service"
    path.write_text(UNIT.replace(command.split()[0], str(program)))
    if analyse := shutil.which("systemd-analyze"):
        done = subprocess.run([analyse, "verify", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert command.split()[1:] == ["serve"]
    given = dict(one.split("=", 1) for one in re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE))
    assert set(given) <= {f"PIANO_ACTIONS_{name.upper()}" for name in settings_for(piano, tmp_path)}
    assert "User=piano-actions" in UNIT


def test_the_image_is_made_of_what_is_there_and_runs_as_nobody_in_particular() -> None:
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    copied = {line.split()[-1] for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, re.MULTILINE)}
    install = re.search(r"pip install (.*)$", CONTAINER, re.MULTILINE)
    assert install
    named = [word.strip('"').partition("[")[0] for word in install[1].split() if "/src" in word]
    assert set(named) == copied
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"postgres"} <= set(project["optional-dependencies"])
    assert "piano-actions" in project["scripts"]
    assert all("--format docker" in one for one in commands() if one.startswith("podman build"))
    stages = CONTAINER.split("\nFROM ")
    assert re.search(r"^USER (\d+)$", stages[-1], re.MULTILINE)[1] not in {"0", ""}  # type: ignore[index]
    assert stages[-1].index("USER ") < stages[-1].index("ENTRYPOINT")


def test_the_health_check_of_the_image_tells_well_from_ill(settings: dict[str, Any], tmp_path: Path) -> None:
    check = json.loads(re.search(r"^HEALTHCHECK CMD (.*)$", CONTAINER, re.MULTILINE)[1])  # type: ignore[index]
    with served(settings, tmp_path) as service:
        port = service.url.rpartition(":")[2]
        code = check[2].replace("8787", port)
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(not FULL, reason="takes a minute; FAULT_ROUNDS=10 does it")
def test_the_line_that_installs_it_does(tmp_path: Path) -> None:
    (line,) = [one for one in commands() if "/bin/pip install" in one]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    run = line.replace("/opt/piano-actions", str(tmp_path / "venv"))
    subprocess.run(["sh", "-c", run], cwd=ROOT, check=True, capture_output=True)
    done = subprocess.run(
        [tmp_path / "venv/bin/piano-actions", "--version"], capture_output=True, text=True, check=True
    )
    assert "piano-actions" in done.stdout
