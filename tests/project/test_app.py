"""`make app`: a second application beside the first, with nothing of the first one's account."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import yaml
from piano_actions import settings as actions_settings
from piano_engage_common.given import take_own
from piano_engage_sandbox.engage.store import Engage as Store
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving
from target_recurly_engage import settings

from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from types import ModuleType

    from piano_engage_sandbox.server import Server

ROOT = Path(__file__).resolve().parents[2]
MELTANO = Path(sys.executable).with_name("meltano")
AID = "TiTlE2aid7"


def script() -> ModuleType:
    """The script behind `make app`."""
    spec = importlib.util.spec_from_file_location("app", ROOT / "scripts" / "app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app = script()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of its own, with the plugins that `make setup` made."""
    shutil.copy(ROOT / "meltano.yml", tmp_path)
    (tmp_path / ".meltano").mkdir()
    for kind in ("extractors", "loaders", "utilities"):
        (tmp_path / ".meltano" / kind).symlink_to(ROOT / ".meltano" / kind)
    return tmp_path


def content(root: Path, name: str = "title2") -> dict[str, Any]:
    return dict(yaml.safe_load((root / "apps" / f"{name}.meltano.yml").read_text(encoding="utf-8")))


def written(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / ".env", *(root / "apps").iterdir())}


def test_every_job_and_schedule_of_the_first_application_is_made_for_the_second(root: Path) -> None:
    assert app.main(["title2", AID, f"--root={root}"]) == 0
    base, own = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8")), content(root)
    expected = {f"{one['name']}--title2": (f"{one['job']}--title2", one["interval"]) for one in base["schedules"]}
    assert {one["name"]: (one["job"], one["interval"]) for one in own["schedules"]} == expected
    assert {one["name"] for one in own["jobs"]} == {job for job, _ in expected.values()}
    tasks = {job["name"]: job["tasks"] for job in own["jobs"]}
    assert tasks["snapshot--title2"] == ["tap-piano-title2-snapshot target-recurly-engage-title2"]
    assert tasks["health--title2"] == ["recurly-engage-title2:health"]
    defined = {plugin["name"] for kind in own["plugins"].values() for plugin in kind}
    used = {plugin.split(":")[0] for job in tasks.values() for task in job for plugin in task.split()}
    assert used <= defined
    assert (root / ".env").stat().st_mode & 0o777 == 0o600


def test_what_belongs_to_an_account_is_named_anew_wherever_it_could_be_inherited(root: Path) -> None:
    """Of a setting that is not named, Meltano hands the first application's value down, to utilities by variables."""
    app.add(root, "title2", AID)
    plugins = {plugin["name"]: plugin for kind in content(root)["plugins"].values() for plugin in kind}
    for plugin, prefix, own in (
        ("tap-piano-title2", "TAP_PIANO_TITLE2", ("api_token", "export_path")),
        ("target-recurly-engage-title2", "TARGET_RECURLY_ENGAGE_TITLE2", settings.OF_ACCOUNT),
        ("recurly-engage-title2", "TARGET_RECURLY_ENGAGE_TITLE2", settings.OF_ACCOUNT),
        ("piano-actions-title2", "PIANO_ACTIONS_TITLE2", actions_settings.OF_ACCOUNT),
    ):
        config = plugins[plugin]["config"]
        assert {name: config.get(name) for name in own} == {name: f"${prefix}_{name.upper()}" for name in own}
    prefix = "TARGET_RECURLY_ENGAGE_TITLE2"
    for plugin in ("target-recurly-engage-title2", "recurly-engage-title2"):
        assert plugins[plugin]["config"]["data_sources_path"] == f"${prefix}_DATA_SOURCES_PATH", "both write offers.csv"
    assert plugins["recurly-engage-title2"]["env"]["TARGET_RECURLY_ENGAGE_ACCOUNT"] == prefix
    assert plugins["piano-actions-title2"]["env"]["TARGET_RECURLY_ENGAGE_ACCOUNT"] == prefix


@pytest.mark.parametrize(
    ("name", "aid", "says"),
    [
        ("Title2", AID, "small letters"), ("a--b", AID, "small letters"), ("../x", AID, "small letters"),
        ("", AID, "small letters"), ("x" * 41, AID, "small letters"), ("2x", AID, "small letters"),
        ("title3", "", "no id of a Piano application"), ("title3", "a b'c;d", "no id of a Piano application"),
        ("log", AID, "plugins of the job 'log'"), ("title-snapshot", AID, "plugins of the job 'snapshot'"),
        ("title2", "OtherAid99", "exists; edit it"), ("title3", AID, "is that of title2"),
        ("title2-aws", "OtherAid99", "is a variable of another plugin"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_application_is_refused_and_nothing_is_written(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, aid: str, says: str
) -> None:
    app.add(root, "title2", AID)
    before = written(root)
    if "title2-aws" in name:
        project = yaml.safe_load((root / "meltano.yml").read_text(encoding="utf-8"))
        (target,) = project["plugins"]["loaders"]
        target["settings"] += [{"name": "aws_x"}, {"name": "x"}]
        (root / "meltano.yml").write_text(yaml.safe_dump(project), encoding="utf-8")
    assert app.main([name, aid, f"--root={root}"]) == 1
    assert says in capsys.readouterr().err
    assert written(root) == before


def test_settings_of_an_account_are_those_of_the_plugins() -> None:
    assert app.OWN["target-recurly-engage"] == settings.OF_ACCOUNT
    assert app.OWN["piano-actions"] == actions_settings.OF_ACCOUNT


def test_an_account_comes_from_its_own_variables_or_from_none() -> None:
    given = {"P_ACCOUNT": "P_T2", "P_KEY": "of the first", "P_TOKEN": "of the first", "P_T2_TOKEN": "own", "P_X": "x"}
    environment = dict(given)
    take_own(environment, "P_", ("key", "token"))
    assert environment == {"P_ACCOUNT": "P_T2", "P_TOKEN": "own", "P_T2_TOKEN": "own", "P_X": "x"}
    first = {"P_KEY": "k"}
    take_own(first, "P_", ("key",))
    assert first == {"P_KEY": "k"}


def environment(server: Server, root: Path) -> dict[str, str]:
    """The lines of the sandbox for the first application, and for the second those that `make app` asks for."""
    lines = server.environment()
    own = {
        name.replace("ENGAGE_", "ENGAGE_TITLE2_"): value
        for name, value in lines.items()
        if name.startswith(("TARGET_RECURLY_ENGAGE_S3_B", "TARGET_RECURLY_ENGAGE_S3_P", "TARGET_RECURLY_ENGAGE_A"))
        and not name.endswith("API_URL")
    }
    token = server.sandbox.piano[AID].token
    return os.environ | lines | own | {
        "TAP_PIANO_TITLE2_API_TOKEN": token, "MELTANO_PROJECT_ROOT": str(root), "NO_COLOR": "1",
        "TAP_PIANO_EXPORT_POLL": "0.02", "TARGET_RECURLY_ENGAGE_AS_OF": "2026-03-28T06:00:00+01:00",
    }  # fmt: skip


def meltano(root: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [MELTANO, "--environment=sandbox", *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(ROUNDS == 1, reason="takes half a minute: make fault-test")
def test_the_second_application_runs_beside_the_first_at_the_same_time(root: Path) -> None:
    """Each application's readers reach Engage, each ledger knows its own alone, and no account leaks."""
    app.add(root, "title2", AID)
    apps = (App(rows=40), App(aid=AID, name="Title 2", rows=30))
    with serving(apps=apps, s3_port=0, switches={"engage.csv_delay": 0}) as server:
        env = environment(server, root)
        assert meltano(root, env, "state", "list").returncode == 0, "which makes Meltano's own database"
        command = [MELTANO, "--environment=sandbox", "run", "--no-install"]
        pairs = (("tap-piano-log", "target-recurly-engage"), ("tap-piano-title2-log", "target-recurly-engage-title2"))
        runs = [
            subprocess.Popen([*command, *pair], cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for pair in pairs
        ]
        told = [run.communicate()[0].decode() for run in runs]
        assert [run.returncode for run in runs] == [0, 0], "\n".join(told)
        server.control("POST", "clock", {"advance": "1m"})
        held = {user.id for user in server.sandbox.part(Store).each_user()}
        readers = [ledger_readers(root, place) for place in ("sandbox", "sandbox/title2")]
        assert readers[0]
        assert readers[1]
        assert not readers[0] & readers[1]
        assert held == readers[0] | readers[1]


@pytest.mark.slow
@pytest.mark.skipif(ROUNDS == 1, reason="half a minute: make fault-test")
def test_without_variables_of_its_own_the_second_application_has_no_account(root: Path) -> None:
    """With the first one's token, keys and bucket in reach: nothing is read, sent or cleared by them."""
    app.add(root, "title2", AID)
    pair = ("tap-piano-title2-log", "target-recurly-engage-title2")
    with serving(apps=(App(rows=40), App(aid=AID, name="Title 2", rows=30)), s3_port=0) as server:
        env = environment(server, root)
        assert meltano(root, env, "run", "--no-install", *pair).returncode == 0
        reader = min(ledger_readers(root, "sandbox/title2"))
        without = {name: value for name, value in env.items() if "TITLE2" not in name}
        refused = meltano(root, without, "run", "--no-install", *pair)
        assert refused.returncode == 1, "with the first one's token and keys in reach"
        asked = meltano(root, without, "invoke", "recurly-engage-title2:plan", "--json")
        assert asked.returncode == 0, asked.stderr
        without["TARGET_RECURLY_ENGAGE_TITLE2_DELIVERY"] = "ingest"
        erased = meltano(root, without, "invoke", "recurly-engage-title2:erase", "--user", reader)
        assert erased.returncode != 0, "nobody is erased at the first one's Engage"


@pytest.mark.slow
@pytest.mark.skipif(ROUNDS == 1, reason="half a minute: make fault-test")
def test_every_job_of_the_schedules_does_its_work(root: Path) -> None:
    """All in one run of Meltano, in the order of a first day; the second snapshot is complete and sends nothing."""
    jobs = [one["job"] for one in yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))["schedules"]]
    assert jobs == ["log", "snapshot", "subscriptions", "catalogue", "actions", "health"]
    with serving(apps=(App(rows=60),), s3_port=0, switches={"engage.csv_delay": 0}) as server:
        lines = server.environment()
        env = os.environ | lines | {
            "NO_COLOR": "1", "TAP_PIANO_EXPORT_POLL": "0.02", "PIANO_ACTIONS_AID": lines["TAP_PIANO_AID"],
            "PIANO_ACTIONS_API_TOKEN": lines["TAP_PIANO_API_TOKEN"],
            "PIANO_ACTIONS_API_URL": lines["TAP_PIANO_API_URL"],
            "TARGET_RECURLY_ENGAGE_DATA_SOURCES_PATH": str(root / "sources"),
            "TARGET_RECURLY_ENGAGE_METRICS_PATH": str(root / "metrics"),
        }  # fmt: skip
        done = meltano(root, env, "run", "--no-install", *jobs)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = sorted((root / "runs" / "sandbox").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    log, snapshot, listed, catalogue = (json.loads(path.read_text(encoding="utf-8")) for path in runs)
    assert log["rows"]["read"] == snapshot["rows"]["read"] == 60
    assert (log["users"]["new"], snapshot["users"]["new"], snapshot["files"]) == (log["users"]["total"], 0, [])
    assert listed["api_subscriptions"]["came"] > 0
    assert listed["subscriptions"] is None
    assert {role: counts["came"] > 0 for role, counts in catalogue["catalogue"].items()} == dict.fromkeys(
        ("promotions", "promo_codes", "terms"), True
    )
    assert (root / "sources" / "offers.csv").exists()
    assert (root / ".meltano" / "sandbox" / "actions.db").exists()
    assert list((root / "metrics").iterdir())
    for words in ("0 action(s) brought to an end", "webhooks_waiting 0", f"{lines['TAP_PIANO_AID']}: "):
        assert words in done.stdout + done.stderr


def ledger_readers(root: Path, place: str) -> set[str]:
    with duckdb.connect(str(root / ".meltano" / place / "ledger.duckdb"), read_only=True) as connection:
        return {user for (user,) in connection.execute("SELECT DISTINCT user_id FROM subscriptions").fetchall()}
