"""What neither vendor documents, as switches: each has the behaviour we think likeliest as its default.

The numbers in brackets are those of the open questions in docs/sandbox.md. A switch is set when the sandbox starts
(`sandbox serve --switch reports.duplicate_window=0`), by a test (`serving(switches={...})`), or while it runs
(`POST /_sandbox/switches`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


class SwitchError(ValueError):
    """A switch that does not exist, or a value it does not take."""


@dataclass(slots=True)
class PublisherSwitches:
    """Guesses about the Publisher API."""

    refused_token_status: Literal[200, 401, 403] = 200
    """HTTP status of a missing or wrong token; the body says code 2 in any case."""
    resume_refusal: Literal["data_false", "code_2", "code_8005"] = "data_false"
    """Answer to resuming what cannot be resumed."""
    unknown_subscription: Literal[8005, 2] = 8005
    """Error code of actions on a subscription nobody knows."""
    unknown_change: Literal["code_1012", "data_false"] = "code_1012"
    """Answer of term/change/can when there is no change option."""
    change_settings: Literal["exact", "any"] = "exact"
    """Whether term/change/do must repeat the settings of the change option."""
    upgrade_status_without_change: Literal["missing", "null", "code_1012"] = "missing"
    """Answer of getSubscriptionUpgradeStatus where nothing is pending."""
    promo_code_key: Literal["promo_code", "PromoCode"] = "promo_code"
    """Data key of promotion/code/get, create and update."""
    max_limit: int = 0
    """Most items of one page; 0 is no limit."""
    over_limit: Literal["clamp", "code_400"] = "clamp"
    """What a greater `limit` meets."""
    subscription_order: Literal["created", "updated", "unstable"] = "created"
    """Order of subscription/list; `unstable` is another at each call."""
    success_code: Literal[0, 200] = 0
    """`code` of calls that answer nothing but success."""


@dataclass(slots=True)
class ReportsSwitches:
    """Guesses about the Reports API. Durations are seconds of the sandbox's clock."""

    created_for: float = 0.0
    """How long a job waits as CREATED."""
    running_for: float = 0.0
    """How long it is IN_PROGRESS; longer if making the file takes longer."""
    duplicate_window: float = 600.0
    """How long the same request gets the earlier job back, as DUPLICATE; 0 is never."""
    duplicate_converts: bool = True
    """Whether a DUPLICATE job shows its real status when polled; else it stays DUPLICATE."""
    duplicate_sees_file_name: bool = False
    """Whether another `file_name` makes another report."""
    link_lives: float = 1800.0
    """How long a download link works."""
    removed_after: float = 86_400.0
    """When a finished export is REMOVED."""
    wrapped: Literal["bare", "data", "export"] = "bare"
    """Whether job objects come bare or in an envelope under that key."""
    packed: Literal["csv", "zip"] = "csv"
    """Form of the file."""
    byte_order_mark: bool = False
    """Whether the CSV begins with one."""
    crlf: bool = False
    """Whether lines end in CR LF."""
    ranges: bool = True
    """Whether a download can be resumed with a Range header."""
    refused_token_status: Literal[401, 403] = 401
    """HTTP status of a missing or wrong token."""
    echo: Literal["object", "text"] = "object"
    """Whether `report_request` is an object, as was seen, or JSON in a text, as is described."""


@dataclass(slots=True)
class WebhookSwitches:
    """Guesses about webhooks. Durations are seconds of real time: they are about the network."""

    hmac: bool = True
    """Whether events carry the HMAC."""
    method: Literal["GET", "POST"] = "GET"
    """GET with a query parameter, or POST with a form field, `data`."""
    timeout: float = 10.0
    """How long the receiver may take."""
    first_pause: float = 1.0
    """Pause after the first failure; doubles with each further one."""
    longest_pause: float = 3600.0
    """No pause is longer."""
    attempts: int = 0
    """After so many failures an event is given up and the queue goes on; 0 is never."""
    absent: Literal["null", "left_out"] = "null"
    """Fields without a value. The SDK 16.988 refuses an event that leaves one out."""
    padding: Literal["block", "none"] = "block"
    """What a text gets that fills its last block: a block of padding (PHP, OpenSSL) or nothing (Python SDK)."""


@dataclass(slots=True)
class EngageSwitches:
    """Guesses about Engage. Durations are seconds of the sandbox's clock."""

    auth: Literal["basic", "key", "either", "both", "none"] = "basic"
    """What the JSON form must bring: Basic, the key as query parameter, one of them, both, or nothing."""
    query_auth: Literal["basic", "key", "either", "both", "none"] = "none"
    """The same for the query form."""
    key_parameter: str = "api_key"
    """Name of the query parameter that carries the key."""
    query_verbs: Literal["POST", "GET", "both"] = "POST"
    """Verbs the query form takes."""
    unknown_user: Literal["create", "422"] = "create"
    """Whether a user never seen is created, or refused as userId_not_found."""
    wrong_id: Literal["401", "ignore"] = "401"
    """Answer to an id that is not ours, or differs from the Basic user; `ignore` says 200 and keeps nothing."""
    null: Literal["store", "ignore", "clear", "422"] = "store"
    """What null does to a trait."""
    empty: Literal["store", "ignore", "clear", "422"] = "store"
    """What an empty text does to a trait, through the API."""
    nested: Literal["store", "ignore", "422"] = "ignore"
    """What lists and objects as values meet."""
    spaced_keys: Literal["store", "ignore", "422"] = "store"
    """What keys with a space meet through the API; CSV columns with one are dropped, which is documented."""
    max_body: int = 0
    """Bytes a body may have before 413; 0 is no limit."""
    csv_delay: float = 2.0
    """How long after its upload a file is read. Engage needs hours; 10800 is its own figure."""
    csv_empty: Literal["ignore", "clear", "store"] = "ignore"
    """What an empty cell does to a trait."""
    csv_unknown_user: Literal["create", "skip"] = "create"
    """Whether a user never seen is created by a file."""
    csv_repeated_user: Literal["last", "first", "refuse"] = "last"
    """Which row of a user counts."""
    csv_trim: bool = True
    """Whether cells lose the blanks around them."""
    csv_byte_order_mark: Literal["accept", "refuse"] = "accept"
    """Whether a file may begin with one."""
    csv_removed: bool = False
    """Whether files vanish from the bucket once read."""
    segment_delay: float = 0.0
    """How long membership lags behind the traits."""
    date_range_sense: Literal["ahead", "back"] = "ahead"
    """Which way the days of a relative date range count from today."""
    configured: Literal["automatic", "by_hand"] = "automatic"
    """Engage wants a trait configured by hand before a segment sees it; `automatic` does so at first sight."""
    writes_are_activity: bool = True
    """Whether a write counts as activity for the 90 days after which idle users are forgotten."""
    retention_days: float = 90.0
    """Days without activity after which a user is forgotten."""


@dataclass(slots=True)
class Switches:
    """All switches, by part."""

    publisher: PublisherSwitches = field(default_factory=PublisherSwitches)
    reports: ReportsSwitches = field(default_factory=ReportsSwitches)
    webhooks: WebhookSwitches = field(default_factory=WebhookSwitches)
    engage: EngageSwitches = field(default_factory=EngageSwitches)

    def set(self, name: str, value: object) -> None:
        """Set `part.name`; text is read as what the switch takes. Raises SwitchError."""
        part_name, _, switch = name.partition(".")
        part = getattr(self, part_name, None)
        if not is_dataclass(part) or switch not in {f.name for f in fields(part)}:
            known = ", ".join(sorted(self.as_dict()))
            msg = f"no switch {name!r}; there are: {known}"
            raise SwitchError(msg)
        setattr(part, switch, _read(name, get_type_hints(type(part))[switch], value))

    def as_dict(self) -> dict[str, Any]:
        """Give all switches as `part.name` → value."""
        return {
            f"{part.name}.{switch.name}": getattr(getattr(self, part.name), switch.name)
            for part in fields(self)
            for switch in fields(getattr(self, part.name))
        }


def _read(name: str, kind: Any, value: object) -> object:  # noqa: ANN401 - a type hint is anything
    """Turn a value or its text into what a switch takes."""
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if value == choice or str(value) == str(choice):
                return choice
        msg = f"switch {name} takes {', '.join(str(c) for c in get_args(kind))}: {value!r}"
        raise SwitchError(msg)
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        try:
            return words[str(value).lower()]
        except KeyError as e:
            msg = f"switch {name} takes true or false: {value!r}"
            raise SwitchError(msg) from e
    try:
        return kind(value)
    except (TypeError, ValueError) as e:
        msg = f"switch {name} takes a {kind.__name__}: {value!r}"
        raise SwitchError(msg) from e
