"""The image definition and the compose file, as far as they can be tested where no engine is."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from piano_engage_sandbox import serve

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = ROOT / "container" / "Containerfile"
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in {"", "#"}
]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "container" / "compose.yml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """The instructions, with lines that go on joined."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def of(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def ignored(path: str) -> bool:
    parts = Path(path).parts
    heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    return any(
        any(fnmatch.fnmatch(part, rule[3:]) for part in parts) if rule.startswith("**/") else rule in heads
        for rule in IGNORED
    )


def copied() -> list[str]:
    """The sources in this checkout that the image gets."""
    copies = [shlex.split(rest) for rest in of("COPY") if "--from=" not in rest]
    return [source for words in copies for source in [word for word in words if not word.startswith("--")][:-1]]


def test_what_is_copied_exists_is_tracked_and_is_not_ignored() -> None:
    assert copied()
    for source in copied():
        files = [path for path in TRACKED if path == source or path.startswith(f"{source}/")]
        assert files, source
        assert not any(ignored(path) for path in files), source


def test_no_secret_and_nothing_of_this_machine_gets_into_the_image() -> None:
    places = (".env", "target-recurly-engage/.env", ".venv/bin/python", ".meltano/prod/ledger.duckdb", ".git/config",
              "plugins/x/.venv/a", "a.duckdb", "runs/a.json")  # fmt: skip
    assert [place for place in places if not ignored(place)] == []
    assert not ignored("meltano.yml"), "else the rule ignores all"


def test_all_that_meltano_installs_is_copied_before() -> None:
    plugins = [plugin for kind in PROJECT["plugins"].values() for plugin in kind if "pip_url" in plugin]
    needed = {re.sub(r"^\./|\[.*", "", word) for one in plugins for word in one["pip_url"].split() if "/" in word}
    needed |= {"pyproject.toml", "uv.lock", "meltano.yml"}
    workspace = re.search(r"members = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert workspace
    needed |= set(re.findall(r'"(.*?)"', workspace[1]))
    assert [path for path in needed if not any(path == one or path.startswith(f"{one}/") for one in copied())] == []


def test_the_image_is_installed_as_make_does_with_the_same_pins() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    version = re.search(r"UV_VERSION := (.*)", makefile)
    assert version
    runs = of("RUN")
    assert f"pip install --no-cache-dir uv=={version[1]}" in runs
    assert "uv sync --frozen --no-dev --group shared" in runs, "containers share their database"
    assert "$(UV) sync -q --frozen --no-dev" in makefile
    assert ".venv/bin/meltano install $PLUGINS" in runs
    (plugins,) = re.findall(r'PLUGINS="(.*)"', " ".join(of("ARG")))
    installed = {plugin["name"] for kind in PROJECT["plugins"].values() for plugin in kind if "pip_url" in plugin}
    assert installed - {"sandbox", "airflow"} == set(plugins.split())


def test_it_does_not_run_as_root_and_starts_what_there_is() -> None:
    last = max(n for n, (name, _) in enumerate(instructions()) if name == "FROM")
    rest = dict(instructions()[last:])
    assert int(rest["USER"]) > 0
    assert rest["ENTRYPOINT"] == '["meltano"]'
    assert (ROOT / ".venv" / "bin" / "meltano").exists()
    job = yaml.safe_load(rest["CMD"])[-1]
    assert job in {one["name"] for one in PROJECT["jobs"]}
    environment = dict(re.findall(r"(\w+)=(\S+)", rest["ENV"]))
    assert environment["MELTANO_ENVIRONMENT"] in {one["name"] for one in PROJECT["environments"]}
    kept = yaml.safe_load(rest["VOLUME"])
    assert any(environment["MELTANO_DATABASE_URI"].startswith(f"sqlite:///{place}/") for place in kept)


def test_what_a_run_must_not_lose_lies_in_a_volume() -> None:
    (prod,) = [one for one in PROJECT["environments"] if one["name"] == "prod"]
    configs = [one["config"] for kind in prod["config"]["plugins"].values() for one in kind]
    values = [str(v) for one in configs for v in (one | one.get("target", {})).values() if not isinstance(v, dict)]
    places = [
        value.replace("$MELTANO_PROJECT_ROOT", "/app").removeprefix("sqlite:///") for value in values if "/" in value
    ]
    kept = yaml.safe_load(dict(instructions())["VOLUME"])
    assert places
    assert [place for place in places if not any(place.startswith(f"{one}/") for one in kept)] == []
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"]["pair"]["volumes"]}
    assert set(kept) <= mounted


def test_a_command_that_removes_its_container_keeps_what_a_run_must_not_lose() -> None:
    """A volume without a name goes with the container, and with it the files that the ledger holds as told."""
    texts = [path.read_text(encoding="utf-8") for path in (CONTAINERFILE, ROOT / "docs" / "production.md")]
    commands = [
        line
        for text in texts
        for line in text.replace("\\\n#", "").splitlines()
        if "docker run" in line and "--rm" in line
    ]
    assert len(commands) == 2
    kept = set(yaml.safe_load(dict(instructions())["VOLUME"]))
    for command in commands:
        assert set(re.findall(r"-v [\w-]+:(\S+)", command)) == kept


def test_the_trial_tells_the_sandbox() -> None:
    """The environment `prod` writes files, as long as nobody says otherwise."""
    for name in ("pair", "airflow"):
        assert COMPOSE["services"][name]["environment"]["TARGET_RECURLY_ENGAGE_DELIVERY"] == "ingest"


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_service_starts_what_there_is(service: str) -> None:
    one = COMPOSE["services"][service]
    assert (ROOT / "container" / one["build"]["context"] / one["build"]["dockerfile"]).exists()
    named = {volume.split(":")[0] for volume in one["volumes"] if not volume.startswith(".")}
    assert named <= set(COMPOSE["volumes"])
    assert set(one.get("depends_on", {})) <= set(COMPOSE["services"])
    words = [*one["entrypoint"], *shlex.split(" ".join(one["command"]))]
    utilities = {plugin["name"]: plugin.get("commands", {}) for plugin in PROJECT["plugins"]["utilities"]}
    jobs = {job["name"] for job in PROJECT["jobs"]}
    for before, word in pairwise(words):
        if before == "invoke" and word != "airflow":
            plugin, _, command = word.partition(":")
            assert command in utilities[plugin]
        if before == "--no-install":
            assert word in jobs


def test_the_sandbox_is_started_with_options_that_it_has() -> None:
    options = serve.parser().parse_args(COMPOSE["services"]["sandbox"]["command"])
    lines = COMPOSE["services"]["sandbox"]["volumes"][0].split(":")[1]
    assert options.env_file == f"{lines}/env"
    for name in ("pair", "actions", "airflow"):
        assert f". {lines}/env" in " ".join(COMPOSE["services"][name]["command"])
        assert COMPOSE["services"][name]["network_mode"] == "service:sandbox", "for its lines say 127.0.0.1"


def test_what_a_service_is_told_of_airflow_is_a_setting_of_the_utility() -> None:
    (airflow,) = [one for one in PROJECT["plugins"]["utilities"] if one["name"] == "airflow"]
    settings = {setting["name"]: setting for setting in airflow["settings"]}
    environment = COMPOSE["services"]["airflow"]["environment"]
    told = {name.removeprefix("AIRFLOW_").lower() for name in environment if name.startswith("AIRFLOW")}
    assert told == {"host"}
    assert told <= settings.keys()
    assert (settings["host"]["env"], settings["host"]["value"]) == ("AIRFLOW__API__HOST", "127.0.0.1")
