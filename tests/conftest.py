"""What all tests share: the sandbox, as fixtures `sandbox` and `sandbox_s3`, and the long ones first."""

from __future__ import annotations

import pytest

pytest_plugins = ["piano_engage_sandbox.testing"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: at the end all workers but one would wait for it."""
    items.sort(key=lambda item: not any(item.iter_markers("slow")))
