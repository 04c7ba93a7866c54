"""The days of :mod:`tests.e2e.test_days` as an operator has them: ``meltano --environment=sandbox run``.

Meltano's own plugins, state and settings stand between the two vendors; what is compared is the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.testing import serving

from tests.e2e.test_days import Pair, compare_segments
from tests.target.conftest import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
MELTANO = Path(sys.executable).with_name("meltano")
DAYS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ROUNDS == 1, reason="takes minutes: make fault-test"),
]


@dataclass
class Operated(Pair):
    """The pair in the environment `sandbox` of this checkout's project; state, ledger and runs lie in the folder."""

    settings: dict[str, Any] = field(default_factory=dict)

    def run(self, *, script: str = "", **settings: Any) -> int:  # noqa: ANN401 - settings
        """Run the job; gives Meltano's exit code."""
        assert not script, "plugins of Meltano are as they were installed"
        self.settings = settings
        return self.meltano("run", "--no-install", "tap-piano", "target-recurly-engage").returncode

    def ask(self, *question: str) -> Any:  # noqa: ANN401 - JSON
        """Ask the utility, which has the settings of the loader."""
        done = self.meltano("invoke", "recurly-engage", *question, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def meltano(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Meltano as a person would, with the lines of the sandbox in the environment."""
        system = self.folder / "system"
        for kind in ("extractors", "loaders", "utilities"):
            if not (system / kind).exists():
                system.mkdir(exist_ok=True)
                (system / kind).symlink_to(ROOT / ".meltano" / kind)
        own = {
            "LEDGER": self.folder / "ledger.duckdb",
            "RUNS_PATH": self.folder / "runs",
            "HANDOVER_PATH": self.folder / "handover",
            "AS_OF": self.now.isoformat(),
            "RETRY_WAIT": 0,
            **{name.upper(): value for name, value in self.settings.items()},
        }
        environment = os.environ | self.server.environment() | {
            "MELTANO_SYS_DIR_ROOT": str(system),
            "MELTANO_DATABASE_URI": f"sqlite:///{self.folder / 'meltano.db'}",
            "NO_COLOR": "1",
            "TAP_PIANO_EXPORT_POLL": "0.02",
            "TAP_PIANO_REJECTS_PATH": str(self.folder / "rejects"),
        } | {f"TARGET_RECURLY_ENGAGE_{name}": str(value) for name, value in own.items()}  # fmt: skip
        line = [str(MELTANO), "--environment=sandbox", *command]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(done.stderr)
        return done


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Operated]:
    with serving(rows=300, s3_port=0, switches={"engage.csv_delay": 0}) as server:
        yield Operated(server, tmp_path)


def test_each_day_engage_holds_all_traits_and_the_segments_of_the_preview(operated: Operated) -> None:
    """First load by S3, then the changes of each day by the Ingest API, with all ready-made segments."""
    compare_segments(operated, days=DAYS)
    done = operated.meltano("run", "--no-install", "recurly-engage:reconcile")
    assert done.returncode == 0, done.stderr
