"""From Meltano's schedules to plans of DAGs; no Airflow is needed."""

from __future__ import annotations

from typing import Any

import pytest
from piano_engage_dags.plan import DagPlan, plan
from piano_engage_dags.told import Told, may_retry


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


def planned(*schedules: dict[str, Any], elt: tuple[dict[str, Any], ...] = ()) -> dict[str, DagPlan]:
    plans = plan({"schedules": {"job": list(schedules), "elt": list(elt)}})
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
