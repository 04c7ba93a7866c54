"""`make engine-test`: the tests of what works on DuckDB, with the lowest and the newest version that the bounds allow.

The package index says which these are. With the version of the lock `make test` runs, so only the tests of the engine
itself are run with it here. Another version is put before that of the environment, and all tests of the target are run
with it. Each round checks that it runs with its version.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from piano_engage_common.engine import BOUNDS

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / ".meltano" / "engines"
QUICK, WHOLE = ("tests/common/test_engine.py",), ("tests/common", "tests/target")
LOCKED = r'name = "duckdb"\nversion = "([^"]+)"'


def resolved(uv: str, how: str) -> str:
    """Return the version of DuckDB that the index offers for the bounds, by one of uv's ways to resolve."""
    command = [uv, "pip", "compile", "-q", "--no-header", "--no-annotate", "--resolution", how, "-"]
    done = subprocess.run(command, input=f"duckdb{BOUNDS}\n", text=True, stdout=subprocess.PIPE, check=True)  # noqa: S603
    found = re.search(r"^duckdb==(\S+)$", done.stdout, re.MULTILINE)
    if not found:
        sys.exit(f"the package index names no duckdb{BOUNDS}: {done.stdout!r}")
    return found[1]


def locked() -> str:
    """Return the version of DuckDB in the lock."""
    found = re.search(LOCKED, (ROOT / "uv.lock").read_text(encoding="utf-8"))
    if not found:
        sys.exit("uv.lock has no duckdb")
    return found[1]


def run(version: str, tests: tuple[str, ...], options: list[str], *, path: Path | None) -> None:
    """Run tests with the DuckDB that lies in *path*, or that of the environment, and end where one fails."""
    environment = os.environ | {"ENGINE_VERSION": version}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "pytest", "-q", *tests, *options], env=environment, cwd=ROOT, check=False
    )
    if done.returncode:  # also where pytest found no test to run
        sys.exit(f"DuckDB {version}: the tests ended with {done.returncode}")


def main() -> None:
    """Find the versions, and run the tests with each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--uv", default="uv", help="the uv to use")
    parser.add_argument("--versions", help="run all tests with these instead, whatever the lock has: 2.0.1,2.1.0")
    arguments, options = parser.parse_known_args()
    lock = locked()
    found = {"lowest": resolved(arguments.uv, "lowest"), "newest": resolved(arguments.uv, "highest")}
    print(f"duckdb{BOUNDS}: lowest {found['lowest']}, newest {found['newest']}, locked {lock}", flush=True)
    ran = []
    named = arguments.versions.split(",") if arguments.versions else []
    for version in sorted(set(named or found.values())):
        if version == lock and not named:
            run(version, QUICK, options, path=None)
            ran.append(f"{version} (the lock's: the engine's own tests; make test runs all others with it)")
            continue
        path = HERE / version
        command = [arguments.uv, "pip", "install", "-q", "--no-deps", "--target", str(path), f"duckdb=={version}"]
        subprocess.run(command, check=True)  # noqa: S603
        run(version, WHOLE, options, path=path)
        ran.append(f"{version} (all tests of the target)")
    print(f"ran with DuckDB {', '.join(ran)}")


if __name__ == "__main__":
    main()
