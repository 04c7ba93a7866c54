"""Commands and names of docs/production.md are those that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from target_recurly_engage.cli import main
from target_recurly_engage.settings import SETTINGS
from target_recurly_engage.watch import metrics
from target_recurly_engage.watch.status import Status

from tests.target.test_watch import NOW

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
PLUGINS = {plugin["name"]: plugin for kind in PROJECT["plugins"].values() for plugin in kind}
JOBS = {job["name"] for job in PROJECT["jobs"]}
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def words(command: str) -> list[str]:
    """The words of a command, without variables that stand before it and without options."""
    return [word for word in shlex.split(command) if not word.startswith("-") and not re.match(r"[A-Z_]+=", word)]


@pytest.mark.parametrize("command", [one for one in COMMANDS if "meltano --environment" in one])
def test_what_meltano_is_asked_to_do_exists(command: str) -> None:
    _, verb, *rest = words(command)
    if verb == "invoke":
        rest = rest[:1]  # what follows is the plugin's own
    if verb in {"run", "invoke"}:
        for one in (name.replace("-title2", "") for name in rest):
            plugin, _, task = one.partition(":")
            assert one in JOBS or plugin in PLUGINS, one
            assert not task or task in PLUGINS[plugin]["commands"], one
    elif verb == "state":
        tap, to, target = rest[1].removeprefix("prod:").partition("-to-")
        assert (rest[0], to) == ("clear", "-to-")
        assert {tap, target} <= PLUGINS.keys()
    else:
        assert verb == "schedule"
        assert rest[0] in {"list", "run"}
        assert set(rest[1:]) <= {one["name"] for one in PROJECT["schedules"]}


def test_other_commands_exist() -> None:
    programs = {found[0] for command in COMMANDS if (found := words(command))}
    assert programs <= {"meltano", "recurly-engage", "make", "uv", "export", "docker", "git", "cp"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        if command.startswith("make "):
            assert re.search(rf"^{words(command)[1]}:", makefile, re.MULTILINE)
    asked = set(re.findall(r"`?recurly-engage (\w+)", PAGE))
    assert asked <= set(main.commands), asked


def test_files_that_the_page_names_exist() -> None:
    for path in re.findall(r"(?:plugins/definitions|container)/[\w.-]+", PAGE):
        assert (ROOT / path).exists(), path


def test_every_job_every_metric_and_every_setting_of_watching_stands_on_the_page() -> None:
    jobs = {one["job"] for one in PROJECT["schedules"]}
    assert jobs == set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## Applications")[0], re.MULTILINE))
    listed = PAGE.split("### Metrics")[1].split("```")[0]
    names = {metric.name for metric in metrics.metrics(Status(), NOW)}
    assert names == {name for name in re.findall(r"`(\w+)(?:\{\w+\})?`", listed) if name in names}
    for setting in ("metrics_path", "metrics_url", "alert_url", "alert_template", "freshness_hours", "ledger_wait"):
        assert f"`{setting}`" in PAGE
        assert setting in SETTINGS["properties"]


def test_variables_of_the_page_are_settings() -> None:
    for plugin in ("TARGET_RECURLY_ENGAGE",):
        found = set(re.findall(rf"{plugin}_((?!TITLE2)[A-Z0-9_]+)\b", PAGE)) - {"ACCOUNT"}
        assert found <= {name.upper() for name in SETTINGS["properties"]}


def test_the_runbook_has_every_exit_code_of_a_run() -> None:
    runbook = PAGE.split("## At three in the morning")[1]
    codes = {int(code) for code in re.findall(r"^\| (\d+)", runbook, re.MULTILINE)}
    table = (ROOT / "docs" / "delivery.md").read_text(encoding="utf-8").split("## Exit codes")[1]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} - {0, 82} <= codes
