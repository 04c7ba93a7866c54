"""What all tests share: the sandbox, as fixtures `sandbox` and `sandbox_s3`, and the long ones first."""

from __future__ import annotations

import os

import duckdb
import hypothesis
import pytest

hypothesis.settings.register_profile("here", deadline=None)  # how long an example takes is the machine's matter
hypothesis.settings.load_profile("here")

pytest_plugins = ["piano_engage_sandbox.testing"]


def pytest_configure() -> None:
    """Refuse to run with another DuckDB than is asked for, as `make engine-test` does."""
    wanted = os.environ.get("ENGINE_VERSION", duckdb.__version__)
    if wanted != duckdb.__version__:
        msg = f"ENGINE_VERSION is {wanted}, and {duckdb.__file__} is DuckDB {duckdb.__version__}"
        raise pytest.UsageError(msg)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: at the end all workers but one would wait for it."""
    items.sort(key=lambda item: not any(item.iter_markers("slow")))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run where groups of tests are not kept together, for then two use one ledger, or one browser."""
    for item in session.items if getattr(session.config.option, "loadgroup", False) else ():
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]:
            msg = f"{item.nodeid}: its group is not in its name; does pytest-xdist fit this pytest?"
            raise pytest.UsageError(msg)
