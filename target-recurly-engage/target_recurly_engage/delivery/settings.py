"""The settings of delivery: which way, where to, as whom, and how patiently."""

from __future__ import annotations

from typing import Final

from singer_sdk import typing as th

DELIVERY: Final = (
    th.Property(
        "delivery",
        th.StringType,
        default="file",
        allowed_values=["file", "s3", "ingest", "auto"],
        title="Delivery",
        description=(
            "How traits reach Engage: `ingest` sends what changed to the Ingest API, `s3` puts CSVs into Engage's "
            "ingest folder, `auto` sends few by the one and many by the other, `file` writes the same CSVs into a "
            "local folder."
        ),
    ),
    th.Property(
        "output_path",
        th.StringType,
        default="output/ingest",
        title="Output path",
        description="Folder for the CSVs of the delivery `file`.",
    ),
    th.Property(
        "ingest_max_users",
        th.IntegerType(minimum=0),
        default=2000,
        title="Ingest max users",
        description="With `auto`: up to so many readers go by the Ingest API, more by a file in the S3 folder.",
    ),
    th.Property(
        "csv_ingest_hours",
        th.NumberType(minimum=0),
        default=3,
        title="CSV ingest hours",
        description="Hours after which Engage has read a file in the S3 folder; three by its own word.",
    ),
    th.Property(
        "csv_overlap",
        th.StringType,
        default="wait",
        allowed_values=["wait", "again"],
        title="CSV overlap",
        description=(
            "What becomes of a change of a user whose last file counts as unread, and could overtake it: it waits for "
            "a run after that, or is sent immediately and after that `again`."
        ),
    ),
    th.Property(
        "s3_bucket",
        th.StringType,
        title="S3 bucket",
        description="Bucket of the delivery `s3`; Pulse shows it under Show Credentials.",
    ),
    th.Property(
        "s3_prefix",
        th.StringType,
        title="S3 prefix",
        description="Folder in the bucket that Engage reads, such as `example-daily-1a2b3c/ingest/`.",
    ),
    th.Property(
        "s3_region",
        th.StringType,
        default="us-west-2",
        title="S3 region",
        description="Region of the bucket.",
    ),
    th.Property(
        "s3_endpoint_url",
        th.StringType,
        title="S3 endpoint URL",
        description="Address of an S3-compatible server other than Amazon's.",
    ),
    th.Property(
        "aws_access_key_id",
        th.StringType,
        title="AWS access key id",
        description="Key for the bucket. Without it the default chain of AWS is asked: environment, profile, role.",
    ),
    th.Property(
        "aws_secret_access_key",
        th.StringType,
        secret=True,
        title="AWS secret access key",
        description="Secret of that key.",
    ),
    th.Property(
        "aws_session_token",
        th.StringType,
        secret=True,
        title="AWS session token",
        description="Token of credentials that are good for a time.",
    ),
    th.Property(
        "app_id",
        th.StringType,
        title="App id",
        description="Engage's id of the application; the Ingest API needs it.",
    ),
    th.Property(
        "api_key",
        th.StringType,
        secret=True,
        title="API key",
        description="Key of the Ingest API; Pulse shows it under Settings > Application.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default="https://conduit.redfast.com",
        title="API URL",
        description="Address of the Ingest API, without its path.",
    ),
    th.Property(
        "ingest_form",
        th.StringType,
        default="json",
        allowed_values=["json", "query"],
        title="Ingest form",
        description="How traits are written: `json` in the body, or the older `query` in the address.",
    ),
    th.Property(
        "ingest_key_in",
        th.StringType,
        default="basic",
        allowed_values=["basic", "query", "both"],
        title="Ingest key in",
        description="Where the key goes: Basic auth with the app id as user, a parameter of the query, or both.",
    ),
    th.Property(
        "ingest_key_parameter",
        th.StringType(min_length=1),
        default="api_key",
        title="Ingest key parameter",
        description="Name of that parameter. Engage's pages speak of one and print no name; ask for it.",
    ),
    th.Property(
        "ingest_values",
        th.StringType,
        default="strings",
        allowed_values=["strings", "typed"],
        title="Ingest values",
        description="`strings` as in Engage's examples, or `typed`: numbers, true and false as JSON has them.",
    ),
    th.Property(
        "requests_per_second",
        th.NumberType(minimum=0),
        default=20,
        title="Requests per second",
        description=(
            "Requests a second to the Ingest API, never more; 0 is no limit. Engage documents none. Halved while "
            "Engage is busy."
        ),
    ),
    th.Property(
        "concurrency",
        th.IntegerType(minimum=1),
        default=8,
        title="Concurrency",
        description="Requests to the Ingest API in flight at the same time.",
    ),
    th.Property(
        "retry_wait",
        th.NumberType(minimum=0),
        default=1,
        title="Retry wait",
        description="Seconds before the second attempt; doubled each time, never less than `Retry-After`.",
    ),
    th.Property(
        "retry_seconds",
        th.NumberType(minimum=0),
        default=600,
        title="Retry seconds",
        description="Seconds after which no further attempt of a request begins.",
    ),
    th.Property(
        "max_reject_fraction",
        th.NumberType(minimum=0, maximum=1),
        default=0.05,
        title="Max reject fraction",
        description="More than this share of a run's readers rejected for the first time: it ends with code 81.",
    ),
    th.Property(
        "request_timeout",
        th.NumberType(exclusive_minimum=0),
        default=60,
        title="Request timeout",
        description="Seconds without a byte after which a request counts as lost.",
    ),
    th.Property(
        "retry_attempts",
        th.IntegerType(minimum=1),
        default=5,
        title="Retry attempts",
        description="How often a request is sent at most.",
    ),
)
