"""Add an application: `make app NAME=title2 AID=…` writes `apps/title2.meltano.yml`, and placeholders into `.env`.

Its plugins inherit those of meltano.yml, and so do jobs and schedules: each kind that stands there is made again under
`KIND--NAME`. What belongs to one account (tokens, keys, bucket) is never inherited: it comes from the application's own
variables, and is absent where these are.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = "apps"
NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST: Final = 40
AID: Final = re.compile(r"[A-Za-z0-9]{6,}")
PLACES: Final = {
    "ledger": "$MELTANO_PROJECT_ROOT/.meltano/$MELTANO_ENVIRONMENT/{name}/ledger.duckdb",
    "handover_path": "$MELTANO_PROJECT_ROOT/.meltano/$MELTANO_ENVIRONMENT/{name}/handover",
    "output_path": "$MELTANO_PROJECT_ROOT/output/$MELTANO_ENVIRONMENT/{name}/ingest",
    "runs_path": "$MELTANO_PROJECT_ROOT/runs/$MELTANO_ENVIRONMENT/{name}",
}
OWN: Final = {
    "tap-piano": ("api_token", "export_path"),
    "target-recurly-engage": (
        "app_id", "api_key", "s3_bucket", "s3_prefix", "aws_access_key_id", "aws_secret_access_key",
        "aws_session_token",
    ),
    "piano-actions": ("api_token", "secrets", "hmac_secret", "private_key"),
}  # fmt: skip
"""Settings of an account, by plugin."""
APART: Final = ("data_sources_path",)
"""Places of the target that have no default and that two applications must not share: their files have one name."""
ASKED: Final = (
    ("tap-piano", "api_token", "Piano's API token of the application"),
    ("target-recurly-engage", "s3_bucket", "Engage's ingest folder: Pulse shows the four under Show Credentials"),
    ("target-recurly-engage", "s3_prefix", ""),
    ("target-recurly-engage", "aws_access_key_id", ""),
    ("target-recurly-engage", "aws_secret_access_key", ""),
    ("target-recurly-engage", "app_id", "Engage's Ingest API: Pulse shows both under Settings > Application"),
    ("target-recurly-engage", "api_key", ""),
    ("piano-actions", "api_token", "Piano's API token for the actions, where they are used"),
)
"""What `.env` gets a line for, with what it is."""

Content = dict[str, Any]


class Refused(Exception):  # noqa: N818 - what happened
    """The application cannot be added; the message says why."""


def variable(plugin: str, name: str, setting: str = "") -> str:
    """Name the environment variable of a setting of the application's plugin, or what all of these begin with."""
    return "_".join(part for part in (plugin, name, setting) if part).upper().replace("-", "_")


def check(name: str, aid: str, project: Content, others: dict[str, str]) -> None:
    """See that the name can be one.

    Args:
        name: of the application.
        aid: Piano's id of it.
        project: the content of meltano.yml.
        others: the ids of the applications there are, by name.

    Raises:
        Refused: it cannot.
    """
    kinds = [schedule["name"] for schedule in project["schedules"]]
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        msg = f"NAME={name}: take small letters and digits, with single hyphens between, {LONGEST} characters at most"
        raise Refused(msg)
    if not AID.fullmatch(aid):
        msg = f"AID={aid}: is no id of a Piano application; its dashboard shows ten letters and digits"
        raise Refused(msg)
    if clash := [kind for kind in kinds if name == kind or name.endswith(f"-{kind}")]:
        msg = f"NAME={name}: plugins of the job {clash[0]!r} are called so; choose another name"
        raise Refused(msg)
    if name in others:
        msg = f"NAME={name}: {FOLDER}/{name}.meltano.yml exists; edit it, or remove it first"
        raise Refused(msg)
    if same := [other for other, known in others.items() if known == aid]:
        msg = f"AID={aid}: is that of {same[0]}; two ledgers of one application would undo each other's traits"
        raise Refused(msg)
    if clash := sorted(
        _variables(name, project) & set().union(*(_variables(other, project) for other in ("", *others)))
    ):
        msg = f"NAME={name}: {clash[0]} is a variable of another plugin already; choose another name"
        raise Refused(msg)


def _variables(name: str, project: Content) -> set[str]:
    """Give the variables of an application's plugins; the empty name is that of the first one."""
    plugins = (plugin for kind in project["plugins"].values() for plugin in kind if "settings" in plugin)
    return {variable(one["name"], name, setting["name"]) for one in plugins for setting in one["settings"]}


def renamed(plugin: str, name: str, bases: set[str]) -> str:
    """Give the application's name of a plugin, or plugin and command: `tap-piano-log` is `tap-piano-NAME-log`."""
    own, colon, command = plugin.partition(":")
    base = max((one for one in bases if own == one or own.startswith(f"{one}-")), key=len)
    return f"{base}-{name}{own.removeprefix(base)}{colon}{command}"


def application(name: str, aid: str, project: Content) -> Content:
    """Make the content of the application's file."""
    plugins = project["plugins"]
    bases = {plugin["name"] for kind in plugins.values() for plugin in kind if "inherit_from" not in plugin}
    names = {schedule["job"] for schedule in project["schedules"]}
    jobs = [job for job in project["jobs"] if job["name"] in names]
    return {
        "plugins": {
            "extractors": [_tap(name, aid), *_of_jobs(name, plugins["extractors"], bases)],
            "loaders": [_target(name)],
            "utilities": [_asked(name), _actions(name, aid)],
        },
        "jobs": [
            {"name": f"{job['name']}--{name}", "tasks": [_task(task, name, bases) for task in job["tasks"]]}
            for job in jobs
        ],
        "schedules": [
            one | {"name": f"{one['name']}--{name}", "job": f"{one['job']}--{name}"} for one in project["schedules"]
        ],
    }


def _task(task: str, name: str, bases: set[str]) -> str:
    return " ".join(renamed(plugin, name, bases) for plugin in task.split())


def _own(plugin: str, name: str) -> dict[str, str]:
    return {setting: f"${variable(plugin, name, setting)}" for setting in OWN[plugin]}


def _places(name: str) -> dict[str, str]:
    return {setting: place.format(name=name) for setting, place in PLACES.items()}


def _tap(name: str, aid: str) -> Content:
    rejects = f"$MELTANO_PROJECT_ROOT/output/$MELTANO_ENVIRONMENT/{name}/rejects"
    return {
        "name": f"tap-piano-{name}",
        "inherit_from": "tap-piano",
        "config": {"aid": aid, **_own("tap-piano", name), "rejects_path": rejects},
    }


def _of_jobs(name: str, taps: list[Content], bases: set[str]) -> list[Content]:
    """Give the taps of single jobs, such as `tap-piano-log`."""
    inherited = (tap for tap in taps if tap.get("inherit_from") == "tap-piano")
    return [tap | {"name": renamed(tap["name"], name, bases), "inherit_from": f"tap-piano-{name}"} for tap in inherited]


def _target(name: str) -> Content:
    return {
        "name": f"target-recurly-engage-{name}",
        "inherit_from": "target-recurly-engage",
        "config": _config_of_target(name),
    }


def _config_of_target(name: str) -> Content:
    apart = {setting: f"${variable('target-recurly-engage', name, setting)}" for setting in APART}
    return {"application": name, **_places(name), **apart, **_own("target-recurly-engage", name)}


def _asked(name: str) -> Content:
    """Give the utility; its namespace is the loader's, so both read the same variables."""
    prefix = variable("target-recurly-engage", name)
    return {
        "name": f"recurly-engage-{name}",
        "inherit_from": "recurly-engage",
        "namespace": prefix.lower(),
        "env": {"TARGET_RECURLY_ENGAGE_ACCOUNT": prefix},
        "config": _config_of_target(name),
    }


def _actions(name: str, aid: str) -> Content:
    places = _places(name)
    store = f"sqlite:///$MELTANO_PROJECT_ROOT/.meltano/$MELTANO_ENVIRONMENT/{name}/actions.db"
    return {
        "name": f"piano-actions-{name}",
        "inherit_from": "piano-actions",
        "env": {
            "PIANO_ACTIONS_ACCOUNT": variable("piano-actions", name),
            "TARGET_RECURLY_ENGAGE_ACCOUNT": variable("target-recurly-engage", name),
        },
        "config": {
            "aid": aid,
            "ledger": places["ledger"],
            "handover_path": places["handover_path"],
            "store_url": store,
            **_own("piano-actions", name),
        },
    }


def lines(name: str) -> str:
    """Give the lines of `.env`, empty as they are."""
    told = [f"\n# Application {name} (apps/{name}.meltano.yml)\n"]
    for plugin, setting, what in ASKED:
        told.append((f"# {what}\n" if what else "") + f"#{variable(plugin, name, setting)}=\n")
    return "".join(told)


def applications(root: Path) -> dict[str, str]:
    """Read the ids of the applications there are, by name."""
    found = {}
    for path in sorted((root / FOLDER).glob("*.meltano.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        name = path.name.removesuffix(".meltano.yml")
        taps = content.get("plugins", {}).get("extractors", [])
        found[name] = next((tap["config"]["aid"] for tap in taps if tap["name"] == f"tap-piano-{name}"), "")
    return found


def add(root: Path, name: str, aid: str) -> Path:
    """Write the file of the application, and the lines of `.env` where they do not stand yet.

    Raises:
        Refused: it cannot be added.
    """
    project = yaml.safe_load((root / "meltano.yml").read_text(encoding="utf-8"))
    check(name, aid, project, applications(root))
    path = root / FOLDER / f"{name}.meltano.yml"
    head = f"# Made by `make app NAME={name} AID={aid}`, and yours from then on. No secret stands here.\n"
    content = yaml.safe_dump(application(name, aid, project), sort_keys=False, width=120)
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(head + content)
    except FileExistsError:
        msg = f"NAME={name}: {path} exists; edit it, or remove it first"
        raise Refused(msg) from None
    _remember(root / ".env", name)
    return path


def _remember(path: Path, name: str) -> None:
    """Append the application's lines to `.env`, which only its owner may read."""
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    if variable("tap-piano", name, "api_token") in known:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with open(descriptor, "a", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        file.write(("\n" if known and not known.endswith("\n") else "") + lines(name))


def main(arguments: list[str] | None = None) -> int:
    """Add the application, and say what is next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="such as title2")
    parser.add_argument("aid", help="Piano's id of the application")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of meltano.yml")
    given = parser.parse_args(arguments)
    try:
        path = add(given.root, given.name, given.aid)
    except Refused as refused:
        print(f"make app: {refused}.", file=sys.stderr)
        return 1
    print(f"{path.relative_to(given.root)} is written. Fill in what holds of these lines in .env:")
    print(lines(given.name))
    print(f"Then: meltano --environment=prod run tap-piano-{given.name} target-recurly-engage-{given.name}")
    print(f"Jobs and schedules: log--{given.name}, snapshot--{given.name}, … (docs/production.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
