"""The SDK's standard tests of a tap, on the sample that ships with the project.

All of the suites "tap", "tap_stream" and "tap_stream_attribute" apply; none is left out. They run without a limit
of records: a full table that is cut short has no STATE that it could end with.
"""

from __future__ import annotations

from pathlib import Path

from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_piano.tap import TapPiano

SAMPLE = Path(__file__).parents[2] / "samples" / "subscription-log-day-1.csv"

TestStandard = get_tap_test_class(
    TapPiano,
    config={"export_path": str(SAMPLE)},
    suite_config=SuiteConfig(max_records_limit=None),
)
