"""What Meltano says of its schedules: asked with a limit of time, and kept until a file of the project changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piano_engage_dags.settings import Settings


def exported(settings: Settings, cache: Path) -> dict[str, Any]:
    """Ask Meltano for its schedules, or take its last answer where no file of the project has changed since.

    To be asked makes Meltano's database, where there is none. Two first runs at once would both try to, and one of them
    fail; there are no runs before there are DAGs.

    Raises:
        RuntimeError: Meltano fails or takes too long.
    """
    key = _key(settings)
    with contextlib.suppress(OSError, ValueError, KeyError):
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return dict(kept["export"])
    environment = ["--environment", settings.environment] if settings.environment else []
    command = [settings.meltano, "--log-level=warning", *environment, "schedule", "list", "--format=json"]
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own program
            command, cwd=settings.project, env=os.environ | {"MELTANO_DATABASE_URI": settings.database},
            capture_output=True, text=True, check=True, timeout=settings.export_timeout,
        )  # fmt: skip
        export = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as e:
        said = (getattr(e, "stderr", None) or "").strip().splitlines()[-1:]
        msg = f"`{shlex.join(command)}` in {settings.project} failed: {e}. {' '.join(said)}"
        raise RuntimeError(msg) from e
    _keep(cache, {"key": key, "export": export})
    return dict(export)


def _key(settings: Settings) -> str:
    """Digest all that schedules can be made of: the project's YAML files and the settings; and the database."""
    told = [str(settings.project), settings.meltano, settings.environment, settings.database]
    digest = hashlib.sha256(json.dumps(told).encode())
    folders = settings.project, settings.project / "apps", settings.project / "plugins"
    for path in sorted(path for folder in folders for path in folder.glob("*.yml")):
        digest.update(f"{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _keep(path: Path, content: object) -> None:
    """Write a file whole or not at all; several processes of Airflow read the DAGs."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as part:
            json.dump(content, part)
        Path(part.name).replace(path)
