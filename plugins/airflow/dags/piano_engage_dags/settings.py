"""How the DAGs run, from the environment of Airflow's processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from piano_engage_dags.plan import DEADLINE, minutes_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Settings:
    """How the DAGs run.

    Attributes:
        project: folder with meltano.yml (`MELTANO_PROJECT_ROOT`).
        meltano: the program (`PIANO_ENGAGE_MELTANO`).
        environment: of Meltano (`MELTANO_ENVIRONMENT`); None is the project's default.
        database: of Meltano, the same for all applications (`MELTANO_DATABASE_URI`).
        system: folder under which each application has its own system folder (`PIANO_ENGAGE_SYSTEM`).
        pool: of Airflow, for all steps (`PIANO_ENGAGE_POOL`); its slots are the runs at the same time.
        retries: attempts after an outage (`PIANO_ENGAGE_RETRIES`).
        retry_seconds: before the first of them, doubled each time (`PIANO_ENGAGE_RETRY_SECONDS`).
        timeout: seconds after which a step is stopped (`PIANO_ENGAGE_TIMEOUT`).
        grace: seconds that it then has to finish what is in flight (`PIANO_ENGAGE_GRACE`).
        export_timeout: seconds that `meltano schedule list` may take (`PIANO_ENGAGE_EXPORT_TIMEOUT`).
        hook: program that is called when a step failed for good (`PIANO_ENGAGE_ON_FAILURE`), with dag, application,
            step and exit codes; and when a run is late.
        deadline: minutes after which a run that is not through is late (`PIANO_ENGAGE_DEADLINE`); None is never. What
            the `env` of a schedule says under that name stands above it.
    """

    project: Path
    meltano: str
    environment: str | None
    database: str
    system: Path
    pool: str
    retries: int
    retry_seconds: float
    timeout: float
    grace: float
    export_timeout: float
    hook: str | None
    deadline: float | None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read them."""
        project = Path(environ.get("MELTANO_PROJECT_ROOT") or Path.cwd()).resolve()
        beside = project / ".venv" / "bin" / "meltano"
        return cls(
            project=project,
            meltano=environ.get("PIANO_ENGAGE_MELTANO") or (str(beside) if beside.exists() else "meltano"),
            environment=environ.get("MELTANO_ENVIRONMENT") or None,
            database=environ.get("MELTANO_DATABASE_URI") or f"sqlite:///{project / '.meltano' / 'meltano.db'}",
            system=Path(environ.get("PIANO_ENGAGE_SYSTEM") or project / ".meltano" / "airflow" / "applications"),
            pool=environ.get("PIANO_ENGAGE_POOL") or "default_pool",
            retries=int(environ.get("PIANO_ENGAGE_RETRIES") or 4),
            retry_seconds=float(environ.get("PIANO_ENGAGE_RETRY_SECONDS") or 360),
            timeout=float(environ.get("PIANO_ENGAGE_TIMEOUT") or 4 * 3600),
            grace=float(environ.get("PIANO_ENGAGE_GRACE") or 300),
            export_timeout=float(environ.get("PIANO_ENGAGE_EXPORT_TIMEOUT") or 60),
            hook=environ.get("PIANO_ENGAGE_ON_FAILURE") or None,
            deadline=minutes_of(environ.get(DEADLINE) or "0"),
        )
