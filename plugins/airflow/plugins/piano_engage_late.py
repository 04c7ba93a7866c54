"""What is called when a run of a DAG is late.

Airflow's triggerer calls it, which knows the plugins folder and not that of the DAGs; so it stands here by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HOOK_SECONDS: Final = 60
TASK: Final = "deadline"
"""Stands where the hook else gets the name of the task that failed."""


async def tell(hook: str | None, minutes: float, context: Mapping[str, Any]) -> str:
    """Call the hook with the DAG, no application, and the minutes; what failed before was told already.

    Args:
        hook: the operator's program; without one the page of Airflow alone shows that the run is late.
        minutes: that the run had.
        context: of Airflow, with the run as its API has it.

    Returns:
        What was done, for Airflow to keep.

    Raises:
        RuntimeError: the hook failed, or took too long.
    """
    run = context["dag_run"]
    if run["state"] == "failed":
        return "the run failed, which was told then"
    if hook is None:
        return "nobody is to be told"
    words = [hook, run["dag_id"], "", TASK, f"minutes={minutes:g}"]
    # The triggerer talks to its parent by standard input, which is not the hook's.
    process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
    try:
        code = await asyncio.wait_for(process.wait(), HOOK_SECONDS)
    except TimeoutError as e:
        process.kill()
        await process.wait()
        msg = f"{hook} took more than {HOOK_SECONDS} s"
        raise RuntimeError(msg) from e
    if code:
        msg = f"{hook} ended with {code}"
        raise RuntimeError(msg)
    return f"{hook} was called"
