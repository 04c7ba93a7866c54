"""The SDK's standard tests for all streams, against the sandbox.

All of the suites "tap", "tap_stream" and "tap_stream_attribute" apply. The classes are made at import and want the
address then, so the sandbox of this module starts with it and stays as long as the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from piano_engage_sandbox.testing import serving
from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_piano.tap import TapPiano

from tests.tap.conftest import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

# Some members of Piano's objects have no value in the sandbox, which these tests warn of and the others would fail for.
pytestmark = pytest.mark.filterwarnings("ignore:No records were available to test:UserWarning")

_SERVING = serving(rows=60)
_SERVER = _SERVING.__enter__()


@pytest.fixture(scope="session", autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    """Close the sandbox; at the very end of the process it could not remove its files any more."""
    yield
    _SERVING.__exit__(None, None, None)


TestStandardOverTheApis = get_tap_test_class(
    TapPiano,
    config=settings_for(_SERVER),
    suite_config=SuiteConfig(max_records_limit=None),
)
