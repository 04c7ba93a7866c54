"""The SDK's standard tests for all streams, against the sandbox.

All of the suites "tap", "tap_stream" and "tap_stream_attribute" apply. The classes are made at import and want the
address then, so the sandbox of this module starts with it and stays as long as the session.
"""

from __future__ import annotations

import pytest
from piano_engage_sandbox.testing import serving
from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_piano.tap import TapPiano

from tests.tap.conftest import UNTIL_THE_END, settings_for

# Some members of Piano's objects have no value in the sandbox, which these tests warn of and the others would fail for.
pytestmark = pytest.mark.filterwarnings("ignore:No records were available to test:UserWarning")

_SERVER = UNTIL_THE_END.enter_context(serving(rows=60))

TestStandardOverTheApis = get_tap_test_class(
    TapPiano,
    config=settings_for(_SERVER),
    suite_config=SuiteConfig(max_records_limit=None),
)
