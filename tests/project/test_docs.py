"""What the documents say is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from piano_actions.settings import schema as actions_schema

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ("tap-piano", "target-recurly-engage")
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
DOCUMENTS = [path for path in TRACKED if path.endswith(".md")]


def about(plugin: str) -> dict[str, Any]:
    command = [Path(sys.executable).with_name(plugin), "--about", "--format", "json"]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def test_settings_in_the_documents_are_those_of_about() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_meltano_knows_every_setting_and_no_other(plugin: str) -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    definitions = [*project["plugins"]["extractors"], *project["plugins"]["loaders"]]
    (definition,) = [entry for entry in definitions if entry["name"] == plugin]
    schema = about(plugin)["settings"]["properties"]
    assert [setting["name"] for setting in definition["settings"]] == list(schema)
    assert set(definition["config"]) <= set(schema)
    for environment in project["environments"]:
        for kind in environment["config"]["plugins"].values():
            assert all(set(entry["config"]) <= set(schema) for entry in kind if entry["name"] == plugin)


def test_example_environment_names_settings_that_exist() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)
    known = {
        f"{plugin.upper().replace('-', '_')}_{setting.upper()}"
        for plugin in PLUGINS
        for setting in about(plugin)["settings"]["properties"]
    } | {f"PIANO_ACTIONS_{setting.upper()}" for setting in actions_schema()["properties"]}
    assert names[0] == "MELTANO_ENVIRONMENT", "else what is filled in holds for the sample as well"
    shared = set(re.findall(r"^ +value: \$(\w+)$", (ROOT / "meltano.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(names[1:]) <= known | shared


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert missing == []


def test_make_targets_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        commands = re.findall(r"^make ([a-z -]+?)(?: ARGS=.*)?(?: +#.*)?$", text, re.MULTILINE)
        assert {word for command in commands for word in command.split()} <= targets, document


@pytest.mark.parametrize("plugin", PLUGINS)
def test_exit_codes_in_the_documents_are_those_of_the_code(plugin: str) -> None:
    from piano_engage_common import stops  # noqa: PLC0415 - the code that is compared

    text = (ROOT / plugin / "README.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    codes = {stop.exit_code for stop in vars(stops).values() if isinstance(stop, type) and hasattr(stop, "exit_code")}
    assert documented <= codes | {0, 1}
    assert {65, 74, 78} <= documented


def test_nothing_of_this_machine_stands_in_the_repository() -> None:
    suspicious = re.compile(r"/(?:home|root|Users)/[a-z]|/work/|/tmp/[a-z]")
    skipped = {"uv.lock", "tests/project/test_docs.py"}
    found = [
        f"{path}: {line.strip()[:80]}"
        for path in TRACKED
        if path not in skipped and not path.endswith((".csv", ".png", ".zip"))
        for line in (ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines()
        if suspicious.search(line)
    ]
    assert found == []


def test_samples_hold_only_example_addresses() -> None:
    for path in (ROOT / "samples").glob("*.csv"):
        domains = set(re.findall(r"@([\w.-]+\.\w+)", path.read_text(encoding="utf-8")))
        assert domains == {"example.com"}
