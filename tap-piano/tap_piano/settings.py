"""The settings of the tap, what is wrong with them, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from piano_engage_common.duck import DEFAULT_MEMORY_LIMIT
from piano_engage_common.given import check_memory_limit, check_zone
from piano_engage_common.stops import ConfigRefused
from piano_engage_common.transport import Patience, Stopping, Transport
from singer_sdk import typing as th

from tap_piano.client import REGIONS, PianoClient
from tap_piano.handed_on import READ, SKIP
from tap_piano.reports import DEFAULT_URL as REPORTS_URL

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

SETTINGS: Final = th.PropertiesList(
    th.Property(
        "export_path",
        th.StringType,
        title="Export path",
        description=(
            "Where the exports of the subscription log lie: a file, a folder or a glob; CSV, or ZIP with CSVs "
            "in it. Of several files the newest row of a subscription wins. Without it the log comes from the "
            "Reports API."
        ),
    ),
    th.Property(
        "aid",
        th.StringType,
        title="Application id",
        description=(
            "Piano's id of the application; written into every row and made part of the key. The APIs need it."
        ),
    ),
    th.Property(
        "api_token",
        th.StringType,
        secret=True,
        title="API token",
        description="Piano's API token of the application; with it all streams come from Piano's APIs.",
    ),
    th.Property(
        "region",
        th.StringType(allowed_values=[*REGIONS]),
        default="us",
        title="Region",
        description="Where Piano keeps the application: `us`, `eu`, `au`, `ap`, or Piano's own `sandbox`.",
    ),
    th.Property(
        "columns",
        th.CustomType({"type": ["string", "array"], "items": {"type": "string"}}),
        default="traits",
        title="Columns",
        description=(
            "Which columns may leave: `traits` (the 30 that Engage names, and the modify time), `all`, or names "
            "of columns, by commas or as a list; the two words may stand among them, and `-name` "
            "leaves one out. Personal columns leave only when `all` or their own name stands here; so do the personal "
            "properties of the other streams."
        ),
    ),
    th.Property(
        "timezone",
        th.StringType,
        default="UTC",
        title="Time zone",
        description="IANA time zone of stamps that carry no offset, such as those of the dashboard's exports.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        title="Start date",
        description="Leave out what last changed before that moment, as long as there is no bookmark.",
    ),
    th.Property(
        "lookback",
        th.IntegerType(minimum=0),
        default=60,
        title="Lookback",
        description="Minutes before the bookmark from which rows are read again, for changes that came late.",
    ),
    th.Property(
        "promo_code_refresh_days",
        th.NumberType(minimum=0),
        default=7,
        title="Promo code refresh days",
        description="Days after which the codes of a promotion are listed again even though it did not move.",
    ),
    th.Property(
        "min_export_share",
        th.NumberType(minimum=0, maximum=1),
        default=0.9,
        title="Min export share",
        description=(
            "An export with less than this share of the subscriptions of the last complete one looks cut off: what it "
            "holds is sent, and the bookmark stays. 0 for exports that differ in size, such as those of the last days."
        ),
    ),
    th.Property(
        "unchanged_files",
        th.StringType(allowed_values=[SKIP, READ]),
        default=SKIP,
        title="Unchanged files",
        description=(
            "What to do when the export files hold what was handed on before, under the same settings: `skip` sends "
            "nothing, `read` reads them again. Their whole content is compared, not their names and times."
        ),
    ),
    th.Property(
        "rejects_path",
        th.StringType,
        default="output/rejects",
        title="Rejects path",
        description="Folder for the files of rows that cannot be used; made when there are any.",
    ),
    th.Property(
        "max_reject_fraction",
        th.NumberType(minimum=0, maximum=1),
        default=0.01,
        title="Max reject fraction",
        description="More bad rows than this share stop the run before a row is sent.",
    ),
    th.Property(
        "memory_limit",
        th.StringType,
        default=DEFAULT_MEMORY_LIMIT,
        title="Memory limit",
        description="Memory for DuckDB; what does not fit is spilled to disk. The process needs about 200 MB more.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        title="API URL",
        description="Base of the Publisher API, such as https://api-eu.piano.io/api/v3; stands above `region`.",
    ),
    th.Property(
        "reports_url",
        th.StringType,
        default=REPORTS_URL,
        title="Reports URL",
        description="Base of the Reports API; the same for all regions, as far as is known.",
    ),
    th.Property(
        "reports_token_in",
        th.StringType(allowed_values=["query", "header"]),
        default="query",
        title="Reports token in",
        description="Where the Reports API wants the token; `query` is what is seen in use, `header` is safer.",
    ),
    th.Property(
        "page_size",
        th.IntegerType(minimum=10),
        default=500,
        title="Page size",
        description="Items to ask the Publisher API for at a time. Where Piano takes no such page, 100 are asked for.",
    ),
    th.Property(
        "requests_per_second",
        th.NumberType(minimum=0),
        default=10,
        title="Requests per second",
        description="Requests a second to Piano, never more; 0 is no limit. Piano documents none.",
    ),
    th.Property(
        "concurrency",
        th.IntegerType(minimum=1, maximum=32),
        default=4,
        title="Concurrency",
        description="Requests in flight at the same time, while promo codes are listed.",
    ),
    th.Property(
        "request_timeout",
        th.NumberType(minimum=0),
        default=30,
        title="Request timeout",
        description="Seconds without a byte after which a request counts as lost.",
    ),
    th.Property(
        "retry_attempts",
        th.IntegerType(minimum=1),
        default=6,
        title="Retry attempts",
        description="How often a request is sent at most.",
    ),
    th.Property(
        "retry_wait",
        th.NumberType(minimum=0),
        default=1,
        title="Retry wait",
        description="Seconds before the second attempt; doubled each time, jittered, never less than `Retry-After`.",
    ),
    th.Property(
        "retry_seconds",
        th.NumberType(minimum=0),
        default=600,
        title="Retry seconds",
        description="Seconds after which no further attempt of a request begins.",
    ),
    th.Property(
        "export_wait",
        th.NumberType(minimum=0),
        default=7200,
        title="Export wait",
        description="Seconds after which an export job counts as one that never finishes.",
    ),
    th.Property(
        "export_poll",
        th.NumberType(minimum=0),
        default=2,
        title="Export poll",
        description="Seconds between the first questions after an export job; they grow to half a minute.",
    ),
)


def check(config: Mapping[str, Any]) -> None:
    """Look over what a JSON schema cannot.

    Raises:
        ConfigRefused: a setting cannot be used; the message says which, and how to write it.
    """
    check_zone(config["timezone"])
    check_memory_limit(config["memory_limit"])
    for name in ("request_timeout", "export_wait", "export_poll"):
        if not config[name]:
            msg = f"{name}: takes more than 0 seconds."
            raise ConfigRefused(msg)
    for name in ("api_url", "reports_url"):
        _check_url(name, config.get(name))
    if config.get("api_token") and not config.get("aid"):
        msg = "aid: is missing. The token belongs to one application; Piano's Console shows its id."
        raise ConfigRefused(msg)


def transport_of(config: Mapping[str, Any], logger: logging.Logger, stopping: Stopping | None = None) -> Transport:
    """Make what sends requests; numbers of a configuration file come as decimals."""
    patience = Patience(
        timeout=float(config["request_timeout"]),
        attempts=config["retry_attempts"],
        wait=float(config["retry_wait"]),
        total=float(config["retry_seconds"]),
    )
    return Transport(
        patience=patience,
        rate=float(config["requests_per_second"]),
        logger=logger,
        stopping=stopping,
        at_once=int(config["concurrency"]),
    )


def client_of(config: Mapping[str, Any], transport: Transport, logger: logging.Logger) -> PianoClient:
    """Make the client of the Publisher API."""
    return PianoClient(
        transport,
        url=config.get("api_url") or REGIONS[config["region"]],
        aid=config["aid"],
        token=config["api_token"],
        page_size=config["page_size"],
        logger=logger,
    )


def _check_url(name: str, url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        msg = f"{name}: is no base URL. Write it like {REGIONS['eu']}, without a query and without credentials."
        raise ConfigRefused(msg)
