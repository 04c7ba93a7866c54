"""The SDK's standard tests of targets.

What they prove here is little: no stream of theirs has a role, so all are left alone, and the tests only look whether
something was raised. They show that the target reads every message of the standard suite, gets along with any schema,
and that a stream which is none of its business cannot make it fail. What is delivered, the other files test.

Left out, with the reason:

``multiple_state_messages``
    expects STATE in the middle of the pipe; here it goes out once, after the delivery.
``record_missing_key_property``, ``record_missing_required_property``, ``invalid_schema``
    expect a failure over rows that this target leaves alone on purpose.
"""

from __future__ import annotations

from typing import Any

from singer_sdk.testing import get_target_test_class
from singer_sdk.testing.suites import SingerTestSuite
from singer_sdk.testing.target_tests import (
    TargetArrayData,
    TargetCamelcaseComplexSchema,
    TargetCamelcaseTest,
    TargetCliPrintsTest,
    TargetDuplicateRecords,
    TargetEncodedStringData,
    TargetNoPrimaryKeys,
    TargetOptionalAttributes,
    TargetPrimaryKeyUpdates,
    TargetRecordBeforeSchemaTest,
    TargetRecordMissingOptionalFields,
    TargetSchemaNoProperties,
    TargetSchemaUpdates,
    TargetSpecialCharsInAttributes,
)
from target_recurly_engage.target import TargetRecurlyEngage

APPLY = SingerTestSuite(
    kind="target",
    tests=[
        TargetArrayData,
        TargetCamelcaseComplexSchema,
        TargetCamelcaseTest,
        TargetCliPrintsTest,
        TargetDuplicateRecords,
        TargetEncodedStringData,
        TargetNoPrimaryKeys,
        TargetOptionalAttributes,
        TargetPrimaryKeyUpdates,
        TargetRecordBeforeSchemaTest,
        TargetRecordMissingOptionalFields,
        TargetSchemaNoProperties,
        TargetSchemaUpdates,
        TargetSpecialCharsInAttributes,
    ],
)

# No stream of theirs matters, so the ledger must not even be opened.
NOWHERE = "/dev/null/nowhere"
CONFIG: dict[str, Any] = {"ledger": NOWHERE, "runs_path": NOWHERE, "output_path": NOWHERE}

TestStandard = get_target_test_class(
    TargetRecurlyEngage, config=CONFIG, custom_suites=[APPLY], include_target_tests=False
)
