"""From Meltano's schedules to plans of DAGs; no Airflow is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from piano_engage_dags.plan import DEADLINE, DagPlan, plan
from piano_engage_dags.settings import Settings
from piano_engage_dags.told import Told, may_retry

ROOT = Path(__file__).resolve().parents[2]


def schedule(
    name: str, tasks: list[Any], *, cron: str = "0 * * * *", env: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "interval": cron,
        "cron_interval": cron,
        "env": env or {},
        "job": {"name": name, "tasks": tasks},
    }


def planned(
    *schedules: dict[str, Any], elt: tuple[dict[str, Any], ...] = (), deadline: float | None = None
) -> dict[str, DagPlan]:
    plans = plan({"schedules": {"job": list(schedules), "elt": list(elt)}}, deadline=deadline)
    assert len({one.id for one in plans}) == len(plans), "two DAGs of one id hide each other"
    return {one.id: one for one in plans}


LOG, OFFERS = "tap-piano target-recurly-engage", "recurly-engage:offers"


def test_one_dag_a_schedule_and_one_task_a_step() -> None:
    found = planned(schedule("log", [LOG, OFFERS], env={"A": 1}), schedule("night", [LOG], cron="5 3 * * *"))
    log = found["log"]
    assert (log.cron, log.steps) == ("0 * * * *", ("1-tap-piano-target-recurly-engage", "2-recurly-engage-offers"))
    (base,) = log.applications
    assert (base.name, base.schedule, base.env) == ("base", "log", {"A": "1"})
    assert [step.blocks for step in base.steps] == [("tap-piano", "target-recurly-engage"), ("recurly-engage:offers",)]
    assert found["night"].cron == "5 3 * * *"


def test_applications_share_the_dag_of_their_kind_and_keep_their_own_plugins() -> None:
    found = planned(
        schedule("log", [LOG, OFFERS]),
        schedule("log--north", ["tap-piano-north target-recurly-engage-north", "recurly-engage-north:offers"]),
        schedule("log--south", [["tap-piano-south target-recurly-engage-south", "recurly-engage-south:offers"]]),
    )
    (log,) = found.values()
    assert [app.name for app in log.applications] == ["base", "north", "south"]
    assert log.applications[2].steps[1].blocks == ("recurly-engage-south:offers",)
    assert len({tuple(step.name for step in app.steps) for app in log.applications}) == 1


def test_who_runs_at_other_hours_or_in_other_steps_has_a_dag_of_his_own() -> None:
    found = planned(
        schedule("log", [LOG]), schedule("log--north", [LOG], cron="30 * * * *"), schedule("log--south", [LOG, OFFERS])
    )
    assert {name: [app.name for app in one.applications] for name, one in found.items()} == {
        "log": ["base"], "log--north": ["north"], "log--south": ["south"],
    }  # fmt: skip
    assert found["log--north"].cron == "30 * * * *"


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "log", "cron_interval": "0 * * * *", "env": {}, "job": {"name": "log", "tasks": []}},
        {"name": "log", "cron_interval": "0 * * * *", "env": {}, "job": {"name": "log", "tasks": [[]]}},
        {"name": "log", "cron_interval": "0 * * * *", "job": None},
        {"name": "log", "cron_interval": "0 * * * *"},
    ],
)
def test_a_schedule_without_steps_is_a_dag_that_says_so(broken: dict[str, Any]) -> None:
    (found,) = planned(broken).values()
    assert found.applications == ()
    assert "log" in str(found.problem)
    assert "meltano job list" in str(found.problem)


def test_an_elt_schedule_is_named_and_not_left_out() -> None:
    (found,) = planned(elt=({"name": "old one", "cron_interval": None},)).values()
    assert (found.id, found.cron) == ("old-one", None)
    assert "meltano job add" in str(found.problem)


def test_what_stands_in_quotes_is_one_argument() -> None:
    (found,) = planned(schedule("log", ["tap-piano 'a mapper; rm -rf ~' target-recurly-engage"])).values()
    assert found.applications[0].steps[0].blocks == ("tap-piano", "a mapper; rm -rf ~", "target-recurly-engage")
    assert found.steps == ("1-tap-piano-a-mapper--rm--rf---target-recurly-engage",)


def test_the_order_of_the_export_changes_nothing() -> None:
    given = [schedule(name, [LOG]) for name in ("b", "a--x", "a", "c--y")]
    assert list(planned(*given)) == list(planned(*reversed(given))) == ["a", "b", "c"]


def test_a_run_is_late_after_the_minutes_of_its_schedule_or_else_those_of_the_settings() -> None:
    own: dict[str, dict[str, Any]] = {"log": {}, "night": {DEADLINE: 90}, "free": {DEADLINE: "0"}}
    given = [schedule(name, [LOG], env=env) for name, env in own.items()]
    assert {name: one.deadline for name, one in planned(*given).items()} == {"log": None, "night": 90, "free": None}
    assert {name: one.deadline for name, one in planned(*given, deadline=20).items()} == {
        "log": 20, "night": 90, "free": None,
    }  # fmt: skip


def test_applications_of_one_dag_are_late_with_the_first_of_them() -> None:
    given = [schedule("log", [LOG]), *(schedule(f"log--{n}", [LOG], env={DEADLINE: n}) for n in ("50", "7.5"))]
    (log,) = planned(*given, deadline=20).values()
    assert (len(log.applications), log.deadline) == (3, 7.5)


@pytest.mark.parametrize("minutes", ["soon", "-1", "nan", "inf", ""])
def test_minutes_that_are_none_are_told_by_the_dag(minutes: str) -> None:
    found = planned(schedule("log", [LOG], env={DEADLINE: minutes}), schedule("night", [LOG]))
    assert found["log"].applications == ()
    assert "schedule log: PIANO_ENGAGE_DEADLINE must be a number of minutes" in str(found["log"].problem)
    assert found["night"].problem is None
    if minutes:
        with pytest.raises(ValueError, match="must be a number of minutes"):
            Settings.of({DEADLINE: minutes})


def test_settings_of_the_utility_are_read_by_the_dags_and_its_folders_exist() -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    (utility,) = [one for one in project["plugins"]["utilities"] if one["name"] == "airflow"]
    values = {setting["env"]: setting.get("value") for setting in utility["settings"]}
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "plugins/airflow/dags").rglob("*.py"))
    assert [env for env in values if env.startswith("PIANO_ENGAGE_") and f'"{env}"' not in source] == []
    given = {env: str(value) for env, value in values.items() if env.startswith("PIANO_ENGAGE_") and value is not None}
    assert Settings.of(given) == Settings.of({}), "the utility's values are the defaults"
    for env in ("AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER"):
        assert (ROOT / values[env].removeprefix("$MELTANO_PROJECT_ROOT/")).is_dir()


@pytest.mark.parametrize(("text", "minutes"), [("", None), ("0", None), ("45", 45)])
def test_without_a_setting_no_run_is_late(text: str, minutes: float | None) -> None:
    assert Settings.of({DEADLINE: text}).deadline == minutes
    assert Settings.of({}).deadline is None


@pytest.mark.parametrize(
    ("codes", "again"),
    [
        ([75], True), ([0, 75], True), ([143], True), ([-9], True), ([137, 75], True), ([80], False), ([78], False),
        ([81], False), ([65], False), ([74], False), ([77], False), ([82], False), ([1], False), ([75, 80], False),
        ([1, 75], False), ([], False), ([0], False), ([255], False),
    ],
)  # fmt: skip
def test_only_outages_and_signals_are_tried_again(codes: list[int], again: bool) -> None:  # noqa: FBT001
    assert may_retry(codes) is again


def test_the_log_tells_codes_summary_and_page() -> None:
    told = Told()
    lines = [
        '{"event": "run 1-1 stopped: 4 rows, 0 file(s), 0.1 s, 90 MB; /a b/1-1.json", "level": "info"}',
        '{"event": "Block run completed", "err": "Loader failed", "exit_codes": {"loaders": 80}, "level": "error"}',
        '{"event": "Block run completed", "err": "`x offers` failed with exit code: 75", "exit_codes": {}}',
        "no JSON at all",
        "[1]",
    ]
    shown = [told.read(line) for line in lines]
    assert told.codes == {"loaders": 80, "utilities": 75}
    assert (told.summary, told.page) == ("/a b/1-1.json", "/a b/1-1.html")
    assert shown[3:] == lines[3:]
    assert "run 1-1 stopped" in shown[0]


@pytest.mark.parametrize("name", ["title2", "west-coast", "piano", "engage"])
def test_the_application_may_stand_in_the_middle_of_a_plugin(name: str) -> None:
    """As `make app` names the taps of single jobs."""
    found = planned(
        schedule("log", ["tap-piano-log target-recurly-engage", "recurly-engage:health"]),
        schedule(
            f"log--{name}", [f"tap-piano-{name}-log target-recurly-engage-{name}", f"recurly-engage-{name}:health"]
        ),
    )
    (log,) = found.values()
    assert (log.id, [one.name for one in log.applications]) == ("log", ["base", name])
    assert log.steps == ("1-tap-piano-log-target-recurly-engage", "2-recurly-engage-health")
