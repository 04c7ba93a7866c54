"""The DAGs themselves; here Airflow is needed, 3.0 or newer."""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from piano_engage_dags.export import exported
from piano_engage_dags.plan import plan
from piano_engage_dags.settings import Settings
from piano_engage_dags.steps import Busy, result_of, run_step
from piano_engage_dags.told import may_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from piano_engage_dags.plan import Application, DagPlan

LOGGER: Final = logging.getLogger(__name__)


def dags(settings: Settings, plans: Sequence[DagPlan]) -> dict[str, Any]:
    """Make Airflow's DAGs of plans, by id."""
    from airflow.sdk import DAG  # noqa: PLC0415 - only here Airflow is needed

    found = {}
    for one in plans:
        with DAG(
            one.id,
            schedule=one.cron,
            start_date=BEGINNING,
            catchup=False,
            max_active_runs=1,
            tags=["piano", "engage"],
            doc_md=_words(one),
            default_args={"pool": settings.pool, "on_failure_callback": _on_failure(settings)},
            deadline=_alert(settings, one.deadline),
        ) as dag:
            _fill(settings, one)
        found[one.id] = dag
    return found


BEGINNING: Final = datetime(2024, 1, 1, tzinfo=UTC)


def _words(one: DagPlan) -> str:
    if one.problem:
        return one.problem
    lines = [f"- **{app.name}** (`{app.schedule}`): `{'`, `'.join(shlex.join(step.blocks) for step in app.steps)}`"
             for app in one.applications]  # fmt: skip
    late = [] if one.deadline is None else ["", f"A run is late after {one.deadline:g} minutes."]
    return "\n".join(["Made from the project's schedules:", "", *lines, *late])


def _fill(settings: Settings, one: DagPlan) -> None:
    """Put the tasks into the DAG that is open: a group of steps, mapped over the applications."""
    from airflow.sdk import task_group  # noqa: PLC0415

    if one.problem:
        _problem(one.problem)
        return
    step = _step(settings, one.id)

    @task_group(group_id="application")
    def of_one(application: dict[str, Any]) -> None:
        before = None
        for number, name in enumerate(one.steps):
            now = step.override(task_id=name)(application, number, last=number == len(one.steps) - 1)
            if before is not None:
                before >> now
            before = now

    of_one.expand(application=[_plain(app) for app in one.applications])


def _problem(words: str) -> None:
    """Put a task into the DAG that fails with words, for a DAG that is missing is seen by nobody."""
    from airflow.sdk import task  # noqa: PLC0415
    from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

    @task(task_id="problem")
    def problem() -> None:
        raise AirflowFailException(words)

    problem()


def _step(settings: Settings, dag: str) -> Any:  # noqa: ANN401 - of Airflow
    """Make the task that runs a step."""
    from airflow.sdk import AssetAlias, get_current_context, task  # noqa: PLC0415
    from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException  # noqa: PLC0415

    @task(
        retries=settings.retries,
        retry_delay=timedelta(seconds=settings.retry_seconds),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(hours=1),
        execution_timeout=timedelta(seconds=settings.timeout + 2 * settings.grace),
        map_index_template="{{ application }}",
        outlets=[AssetAlias(ALIAS)],
    )
    def step(application: dict[str, Any], number: int, *, last: bool) -> dict[str, Any]:
        context = get_current_context()
        context["application"] = application["name"]
        name, blocks, env = application["name"], application["steps"][number], application["env"]
        try:
            ended = run_step(settings, name, blocks, env, LOGGER.info, wait=False)
        except Busy as busy:  # its slot is for other applications meanwhile; no attempt is used up
            LOGGER.info("%s: looking again in %d s", busy, BUSY_SECONDS)
            raise AirflowRescheduleException(datetime.now(tz=UTC) + timedelta(seconds=BUSY_SECONDS)) from busy
        found = result_of(ended)
        if ended.code:
            context["ti"].xcom_push(key="failed", value=found)
            said = (found.get("run") or {}).get("message") or "see the log above"
            msg = f"{application['schedule']} ended with {ended.told.codes or ended.code}: {said}"
            raise RuntimeError(msg) if may_retry(ended.codes) else AirflowFailException(msg)
        LOGGER.info("summary: %s, report: %s", found.get("summary"), found.get("report"))
        if last:
            context["outlet_events"][AssetAlias(ALIAS)].add(_asset(dag, application["name"]))
        return found

    return step


ALIAS: Final = "piano_engage"


def _asset(dag: str, application: str) -> Any:  # noqa: ANN401 - of Airflow
    """Name what is fresh once the last step of an application is through; other DAGs can be scheduled on it."""
    from airflow.sdk import Asset  # noqa: PLC0415

    return Asset(name=f"{ALIAS}_{dag}_{application}", uri=f"x-piano-engage://{application}/{dag}")


def _plain(app: Application) -> dict[str, Any]:
    return {
        "name": app.name, "schedule": app.schedule, "env": dict(app.env),
        "steps": [list(one.blocks) for one in app.steps],
    }  # fmt: skip


def _on_failure(settings: Settings) -> Callable[[Any], None]:
    """Give what calls the hook once a task has failed for good."""

    def call(context: Any) -> None:  # noqa: ANN401 - of Airflow
        if settings.hook is None:
            return
        instance = context["ti"]
        told = instance.xcom_pull(task_ids=instance.task_id, key="failed", map_indexes=instance.map_index) or {}
        codes = ",".join(f"{kind}={code}" for kind, code in (told.get("codes") or {}).items())
        application = str(context.get("application") or instance.map_index)
        command = [settings.hook, instance.dag_id, application, instance.task_id, codes]
        subprocess.run(command, check=False, timeout=HOOK_SECONDS)  # noqa: S603 - the operator's own program

    return call


def _alert(settings: Settings, minutes: float | None) -> Any:  # noqa: ANN401 - of Airflow
    """Give what has the triggerer say that a run is late; not a worker, for those may all be busy being late.

    Raises:
        RuntimeError: the triggerer could not import what says it.
    """
    if minutes is None:
        return None
    from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # noqa: PLC0415

    module, _, _ = LATE.rpartition(".")
    if importlib.util.find_spec(module) is None:
        msg = (
            f"a deadline is set, and the triggerer would not find {module}: let AIRFLOW__CORE__PLUGINS_FOLDER, for all "
            "processes of Airflow, be the folder plugins/airflow/plugins of the project"
        )
        raise RuntimeError(msg)
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=AsyncCallback(LATE, kwargs={"hook": settings.hook, "minutes": minutes}),
    )


LATE: Final = "piano_engage_late.tell"
HOOK_SECONDS: Final = 60
BUSY_SECONDS: Final = 30


def load() -> dict[str, Any]:
    """Make the DAGs of the project; called where Airflow reads this file."""
    settings = Settings.of(os.environ)
    export = exported(settings, settings.system.parent / "schedules.json")
    return dags(settings, plan(export, deadline=settings.deadline))
