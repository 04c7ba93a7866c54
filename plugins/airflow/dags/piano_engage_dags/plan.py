"""From what Meltano says of its schedules to DAGs: pure, and without Airflow.

Schedules `KIND` and `KIND--APPLICATION` of one interval and with the same steps become one DAG `KIND`, whose tasks are
mapped over the applications.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SEPARATOR: Final = "--"
BASE: Final = "base"
"""What the application without a name is called."""
DEADLINE: Final = "PIANO_ENGAGE_DEADLINE"
"""In the `env` of a schedule: minutes after which a run that is not through is late."""


@dataclass(frozen=True)
class Step:
    """One block of a job.

    Attributes:
        name: of its task.
        blocks: arguments of `meltano run`.
    """

    name: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Application:
    """One application's share of a DAG.

    Attributes:
        name: of the application.
        schedule: name of its schedule.
        steps: in their order.
        env: of its schedule.
        deadline: minutes that it may take; None is as long as it likes.
    """

    name: str
    schedule: str
    steps: tuple[Step, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None


@dataclass(frozen=True)
class DagPlan:
    """One DAG.

    Attributes:
        id: of the DAG.
        cron: when it runs; None is by hand only.
        applications: over which its tasks are mapped.
        problem: why nothing can be run, in words; such a DAG has one task, which fails with them.
    """

    id: str
    cron: str | None
    applications: tuple[Application, ...]
    problem: str | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps, the same for all applications."""
        return tuple(step.name for step in self.applications[0].steps) if self.applications else ()

    @property
    def deadline(self) -> float | None:
        """Minutes after which a run is late: those of the application that may take the least."""
        return min((app.deadline for app in self.applications if app.deadline is not None), default=None)


def plan(export: Mapping[str, Any], *, deadline: float | None = None) -> list[DagPlan]:
    """Turn what Meltano says of its schedules into DAGs, ordered by their ids.

    Args:
        export: the answer of ``meltano schedule list --format=json``.
        deadline: minutes after which a run is late, where its schedule does not say.

    Returns:
        One plan for each kind of schedule; one more for each set of applications that differ in interval or steps.
    """
    groups: dict[tuple[Any, ...], list[Application]] = {}
    broken = []
    for one in export["schedules"].get("job", []):
        kind, _, name = one["name"].partition(SEPARATOR)
        cron = one.get("cron_interval") or None
        steps = tuple(_steps((one.get("job") or {}).get("tasks") or [], name))
        if not steps:
            problem = f"schedule {one['name']}: its job is missing, or has no tasks. See `meltano job list`."
            broken.append(DagPlan(_id(one["name"]), cron, (), problem))
            continue
        env = {str(key): str(value) for key, value in (one.get("env") or {}).items()}
        try:
            minutes = minutes_of(env[DEADLINE]) if DEADLINE in env else deadline
        except ValueError as e:
            problem = f"schedule {one['name']}: {e}. Its `env` has it in meltano.yml, or a file of apps/."
            broken.append(DagPlan(_id(one["name"]), cron, (), problem))
            continue
        shape = kind, cron, tuple(step.name for step in steps)
        groups.setdefault(shape, []).append(Application(name or BASE, one["name"], steps, env, minutes))
    for one in export["schedules"].get("elt", []):
        problem = f"schedule {one['name']} is one of `meltano elt`: make it a job, `meltano job add`."
        broken.append(DagPlan(_id(one["name"]), one.get("cron_interval") or None, (), problem))
    kinds = [shape[0] for shape in groups]
    plans = [
        DagPlan(_id(kind if kinds.count(kind) == 1 else min(one.schedule for one in found)), cron, tuple(found))
        for (kind, cron, _), found in groups.items()
    ]
    return sorted([*plans, *broken], key=lambda one: one.id)


def minutes_of(text: str) -> float | None:
    """Read minutes; 0 is None.

    Raises:
        ValueError: it is none.
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        msg = f"{DEADLINE} must be a number of minutes, or 0 for none: {text}"
        raise ValueError(msg)
    return minutes or None


def _steps(tasks: Sequence[Any], application: str) -> Iterator[Step]:
    """Give the steps of a job; a task that is a list is several."""
    flat = [block for task in tasks for block in ([task] if isinstance(task, str) else task)]
    for number, text in enumerate(flat, start=1):
        blocks = tuple(shlex.split(text))
        if blocks:
            yield Step(f"{number}-{_id('-'.join(_bare(block, application) for block in blocks))}", blocks)


def _bare(block: str, application: str) -> str:
    """Give a plugin's name without the application's, so that the steps of all are called alike.

    The application stands after the plugin that is inherited: `tap-piano-log` of title2 is `tap-piano-title2-log`.
    """
    plugin, colon, command = block.partition(":")
    own = re.sub(rf"-{re.escape(application)}(?=-|$)", "", plugin, count=1) if application else plugin
    return own + colon.replace(":", "-") + command


def _id(text: str) -> str:
    """Make something that Airflow takes as an id."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:200]
