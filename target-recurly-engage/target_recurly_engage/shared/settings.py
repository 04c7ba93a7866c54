"""The settings of a ledger on shared storage."""

from __future__ import annotations

from typing import Final

from singer_sdk import typing as th

SHARED: Final = (
    th.Property(
        "ledger_s3_region",
        th.StringType,
        title="Ledger: S3 region",
        description="Region of the bucket of a ledger on S3; without it the default chain of AWS is asked.",
    ),
    th.Property(
        "ledger_s3_endpoint_url",
        th.StringType,
        title="Ledger: S3 endpoint URL",
        description="Address of an S3-compatible server other than Amazon's; it must heed If-Match when it writes.",
    ),
    th.Property(
        "ledger_aws_access_key_id",
        th.StringType,
        title="Ledger: AWS access key id",
        description=(
            "Key for that bucket, which is yours, so never the one that Pulse shows. Without it the default chain of "
            "AWS is asked: environment, profile, role."
        ),
    ),
    th.Property(
        "ledger_aws_secret_access_key",
        th.StringType,
        secret=True,
        title="Ledger: AWS secret access key",
        description="Secret of that key.",
    ),
    th.Property(
        "ledger_aws_session_token",
        th.StringType,
        secret=True,
        title="Ledger: AWS session token",
        description="Token of credentials that are good for a time.",
    ),
    th.Property(
        "ledger_cache",
        th.StringType,
        default=".meltano/ledger-cache",
        title="Ledger: cache",
        description="Folder for the local copies of a ledger on S3; it may be lost at any time between two runs.",
    ),
    th.Property(
        "ledger_versions",
        th.IntegerType(minimum=1),
        default=10,
        title="Ledger: versions",
        description=(
            "How many of the newest versions of a ledger on S3 are kept. That of a run that failed, or of a dry run, "
            "does not count, and goes with the next one."
        ),
    ),
    th.Property(
        "ledger_lease_seconds",
        th.NumberType(minimum=10),
        default=120,
        title="Ledger: lease seconds",
        description=(
            "After so long without a word of the run that holds a ledger on S3 it is anybody's. A run that cannot say "
            "it lives stops sending at half of that; let it be twice `request_timeout`."
        ),
    ),
)
