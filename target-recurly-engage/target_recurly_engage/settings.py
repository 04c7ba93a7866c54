"""The settings of the target, and what is wrong with them."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import DEFAULT_MEMORY_LIMIT
from piano_engage_common.given import check_memory_limit, check_zone
from piano_engage_common.stops import ConfigRefused
from singer_sdk import typing as th

from target_recurly_engage.contract import ALL, COMPUTED, LIST, contract_of
from target_recurly_engage.delivery.settings import DELIVERY
from target_recurly_engage.eligibility import NEVER_HAD, NEVER_PAID
from target_recurly_engage.offers import BY_PROMOTION, SINGLE_USE
from target_recurly_engage.primary import DEFAULT_ORDER
from target_recurly_engage.shared.place import is_shared, place_of
from target_recurly_engage.shared.settings import SHARED
from target_recurly_engage.streams import STREAMS
from target_recurly_engage.watch.alerts import check_template
from target_recurly_engage.watch.settings import WATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "TARGET_RECURLY_ENGAGE_"
"""What the environment variables of settings begin with."""

OF_ACCOUNT: Final = (
    "app_id", "api_key", "s3_bucket", "s3_prefix", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
)  # fmt: skip
"""Settings that belong to one application at Engage, and that no other one may inherit."""

SETTINGS: Final[dict[str, Any]] = th.PropertiesList(
    th.Property(
        "ledger",
        th.StringType,
        default=".meltano/ledger.duckdb",
        title="Ledger",
        description=(
            "File that says what Piano holds and what Engage was told. Keep it: see docs/ledger.md. Where runs are on "
            "several machines, `s3://BUCKET/PATH`: see docs/shared-ledger.md."
        ),
    ),
    *SHARED,
    th.Property(
        "ledger_wait",
        th.NumberType(minimum=0),
        title="Ledger: wait",
        description=(
            "Seconds to wait for another run that has the ledger, as where jobs of several kinds overlap. Without it "
            "none, and 150 for one on S3: longer than its lease, so that a run waits out one that died."
        ),
    ),
    *DELIVERY,
    th.Property(
        "handover_path",
        th.StringType,
        title="Handover path",
        description=(
            "Folder in which `piano-actions` leaves what it told Engage between two runs; a run takes it as told "
            "(docs/actions.md)."
        ),
    ),
    th.Property(
        "runs_path",
        th.StringType,
        default="runs",
        title="Runs path",
        description="Folder for the summaries, one JSON a run.",
    ),
    th.Property(
        "report",
        th.BooleanType,
        default=True,
        title="Report",
        description="Write beside each summary an HTML page that shows it: counts and names, no reader.",
    ),
    *WATCH,
    th.Property(
        "traits",
        th.CustomType({"type": ["string", "array"], "items": {"type": ["string", "object"]}}),
        default=f"{ALL},{COMPUTED}",
        title="Traits",
        description=(
            "Which traits may be sent, by commas or as a list: `all` is the 30 of the log that Engage names, "
            "`computed` the usual ones that are worked out, and there are single names (docs/traits.md); `-name` "
            "leaves one out, such as a column that the export is not meant to have. In a list, `{name, type, sql}`, "
            "`{name, has_active}` and `{name, has_had}` make further ones. What is taken out is "
            "cleared at Engage."
        ),
    ),
    th.Property(
        "trait_prefix",
        th.StringType,
        default="",
        title="Trait prefix",
        description="What the name of each trait at Engage begins with.",
    ),
    th.Property(
        "trait_names",
        th.ObjectType(additional_properties=th.StringType(min_length=1)),
        default={},
        title="Trait names",
        description=(
            "Names of traits at Engage that differ from ours, such as `{term_name: plan}`; after `trait_prefix`."
        ),
    ),
    th.Property(
        "primary",
        th.ArrayType(th.CustomType({"type": ["string", "object"]})),
        default=list(DEFAULT_ORDER),
        title="Primary",
        description=(
            "Criteria by which the subscription that speaks for a reader is chosen; the first that tells two apart "
            "decides. Words, or preferred values of a property, such as `{resource_name: [Premium, Basic]}`."
        ),
    ),
    th.Property(
        "leave_out",
        th.ObjectType(additional_properties=th.ArrayType(th.CustomType({"type": ["string", "number", "boolean"]}))),
        default={},
        title="Leave out",
        description="Subscriptions that count for nothing, by property, such as `{term_name: [Shared seat]}`.",
    ),
    th.Property(
        "site_licences",
        th.StringType,
        default="in",
        allowed_values=["in", "out"],
        title="Site licences",
        description="Whether subscriptions by a contract of an employer or a school count.",
    ),
    th.Property(
        "segments",
        th.CustomType({"type": ["string", "array"], "items": {"type": ["string", "object"]}}),
        default="",
        title="Segments",
        description=(
            "Audiences that become traits: names of ready-made ones, by commas, or `all` of them; or a list of these "
            "and of your own; or the path of a YAML or JSON file with such a list. See docs/segments.md."
        ),
    ),
    th.Property(
        "segments_as",
        th.StringType,
        default="booleans",
        allowed_values=["booleans", LIST],
        title="Segments as",
        description="One true/false trait for each segment, or one trait `segments` with a list of their names.",
    ),
    th.Property(
        "segment_prefix",
        th.StringType,
        default="segment_",
        title="Segment prefix",
        description="What the name of a segment's trait begins with.",
    ),
    th.Property(
        "experiments",
        th.ArrayType(th.ObjectType()),
        default=[],
        title="Experiments",
        description=(
            "Arms, such as promo codes, that readers are assigned to by a stable hash: `{name, segment, arms, salt}`, "
            "with shares such as `{control: 0.2, SPRING50: 0.8}`. Each becomes a trait. `start` is the day on which "
            "its prompts go live."
        ),
    ),
    th.Property(
        "data_sources_path",
        th.StringType,
        title="Data sources path",
        description=(
            "Folder for `offers.csv`, the promo codes that are valid now, for somebody to upload in Pulse as a data "
            "source. Without it none is written. See docs/promotions.md."
        ),
    ),
    th.Property(
        "checkout_url",
        th.StringType,
        title="Checkout URL",
        description=(
            "Template of the links in that file, like `https://www.example.com/checkout?term={term_id}&promo={code}`; "
            "there are also `{term_name}`, `{promotion_id}`, `{promotion_name}` and `{currency}`."
        ),
    ),
    th.Property(
        "checkout_terms",
        th.ArrayType(th.StringType),
        default=[],
        title="Checkout terms",
        description="Ids of terms in the order in which such a link prefers them, where an offer is for several.",
    ),
    th.Property(
        "single_use_codes",
        th.StringType,
        default=BY_PROMOTION,
        allowed_values=list(SINGLE_USE),
        title="Single-use codes",
        description=(
            "What that file says of a promotion with a code for each reader: one row without a code, the `first` free "
            "code, or `all` free ones."
        ),
    ),
    th.Property(
        "new_customers",
        th.StringType,
        default=NEVER_HAD,
        allowed_values=[NEVER_HAD, NEVER_PAID],
        title="New customers",
        description=(
            "Who counts as a new customer to a promotion that is for these: who `never_had` a subscription to a term "
            "that is sold, or who `never_paid` for one."
        ),
    ),
    th.Property(
        "thresholds",
        th.ObjectType(
            additional_properties=th.CustomType({"type": ["array", "string"], "items": {"type": ["number", "string"]}})
        ),
        default={},
        title="Thresholds",
        description=(
            "Numbers at which a trait that drifts from day to day is a reason to send, such as `{tenure: [30, 365]}`, "
            "instead of its own ones in docs/traits.md; `daily` is every day. What is named here counts as drifting."
        ),
    ),
    th.Property(
        "max_value_length",
        th.IntegerType(minimum=1),
        default=1000,
        title="Max value length",
        description="Characters of the longest text that is sent; a longer one counts as absent.",
    ),
    th.Property(
        "resend_after_days",
        th.NumberType(minimum=0),
        default=80,
        title="Resend after days",
        description=(
            "Days after which a reader is told in full again, for Engage forgets who was idle for 90; 0 is never."
        ),
    ),
    th.Property(
        "resend_over_days",
        th.IntegerType(minimum=1),
        default=10,
        title="Resend over days",
        description="The days before that over which readers who were told on one day are spread.",
    ),
    STREAMS,
    th.Property(
        "timezone",
        th.StringType,
        default="UTC",
        title="Time zone",
        description="IANA time zone in which a moment becomes a date; that of the Piano application, as a rule.",
    ),
    th.Property(
        "as_of",
        th.DateTimeType,
        title="As of",
        description="Moment that counts as now when the primary subscription is chosen; for old exports and tests.",
    ),
    th.Property(
        "clear_string",
        th.StringType(min_length=1),
        default="none",
        title="Clear string",
        description="Sent for a text that is absent. Nothing documents that a blank clears a trait at Engage.",
    ),
    th.Property(
        "clear_number",
        th.NumberType,
        default=-1,
        title="Clear number",
        description="Sent for a number that is absent.",
    ),
    th.Property(
        "clear_boolean",
        th.BooleanType,
        default=False,
        title="Clear boolean",
        description="Sent for a true/false that is absent.",
    ),
    th.Property(
        "clear_date",
        th.DateType,
        default="9999-12-31",
        title="Clear date",
        description=(
            "Sent for a date that is absent. Far ahead, so that no filter on the past or on the next days takes it."
        ),
    ),
    th.Property(
        "brake_min_rows_fraction",
        th.NumberType(minimum=0, maximum=1),
        default=0.9,
        title="Brake: min rows fraction",
        description="A complete stream with less than this share of the known rows stops the run. 0 is off.",
    ),
    th.Property(
        "brake_max_clear_fraction",
        th.NumberType(minimum=0, maximum=1),
        default=0.05,
        title="Brake: max clear fraction",
        description="More than this share of the known users losing all traits, or one of them, stops the run.",
    ),
    th.Property(
        "brake_max_change_fraction",
        th.NumberType(minimum=0, maximum=1),
        default=0.3,
        title="Brake: max change fraction",
        description=(
            "More than this share of the known users changing at once, or of unknown terms and ids among what came, "
            "stops the run. After a pause of more than three days the share is larger. 1 is off."
        ),
    ),
    th.Property(
        "brake_max_identity_fraction",
        th.NumberType(minimum=0, maximum=1),
        default=0.01,
        title="Brake: max identity fraction",
        description=(
            "More than this share of the known subscriptions with another user, create date, start date or id stops "
            "the run. 1 is off."
        ),
    ),
    th.Property(
        "accept",
        th.StringType,
        title="Accept",
        description="Fingerprint, from the brake's message, of a plan that may pass once although it looks wrong.",
    ),
    th.Property(
        "dry_run",
        th.BooleanType,
        default=False,
        title="Dry run",
        description="Take in what comes and tell what would be sent, but send and keep nothing, and let no STATE out.",
    ),
    th.Property(
        "memory_limit",
        th.StringType,
        default=DEFAULT_MEMORY_LIMIT,
        title="Memory limit",
        description="Memory for DuckDB; what does not fit is spilled to disk. The process needs about 200 MB more.",
    ),
).to_dict()


def check(config: Mapping[str, Any]) -> None:
    """Check what a JSON schema cannot.

    Raises:
        ConfigRefused: a setting is null, or a time zone, a date, an amount of memory or a trait is none.
    """
    for setting, schema in SETTINGS["properties"].items():
        if "default" in schema and config[setting] is None:
            msg = f"{setting}: null is no value. Leave the setting out to have its default, {schema['default']!r}."
            raise ConfigRefused(msg)
    if is_shared(config["ledger"]):
        place_of(config["ledger"])
    check_zone(config["timezone"])
    check_memory_limit(config["memory_limit"])
    for setting, parse in (("as_of", datetime.fromisoformat), ("clear_date", date.fromisoformat)):
        try:
            parse(config.get(setting) or "2000-01-01")
        except ValueError as e:
            msg = f"{setting}: {config[setting]!r} cannot be read. Write it like '2026-03-28' in ISO 8601."
            raise ConfigRefused(msg) from e
    check_template(config["alert_template"])
    contract_of(config)
