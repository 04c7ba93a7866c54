"""The settings, from the environment (``PIANO_ACTIONS_…``) or a JSON file, and what is made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from piano_engage_common.given import take_own
from piano_engage_common.stops import ConfigRefused
from piano_engage_common.transport import Patience
from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from tap_piano.client import REGIONS, PianoClient

from piano_actions.watch import transport_of
from piano_actions.words import ENGLISH, Wording, check_sentences

if TYPE_CHECKING:
    import logging

    from piano_actions.watch import Watch

PREFIX = "PIANO_ACTIONS_"
PAGE_SIZE = 100
OF_ACCOUNT = ("api_token", "secrets", "hmac_secret", "private_key")
"""Settings that belong to one application, and that no other one may inherit."""


class Settings(BaseSettings):
    """Settings of the actions. What concerns Engage and the traits is read from the target's own settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    aid: str = Field(title="Application id", description="Piano's id of the application.")
    api_token: SecretStr = Field(
        title="API token", description="Piano's API token for the actions; it needs the right to change subscriptions."
    )
    region: Literal["us", "eu", "au", "ap", "sandbox"] = Field(
        "us", title="Region", description="Where Piano keeps the application."
    )
    api_url: str | None = Field(
        None,
        title="API URL",
        description="Base of the Publisher API, such as `https://api-eu.piano.io/api/v3`; stands above `region`.",
    )
    store_url: str = Field(
        "sqlite:///piano-actions.db",
        title="Store URL",
        description="Where the actions keep their notes: SQLite, or PostgreSQL where several processes share the work.",
    )
    target_config: str = Field(
        "ENV",
        title="Target config",
        description="Settings of target-recurly-engage: `ENV` for its variables, or the path of a JSON file.",
    )
    when_ambiguous: Literal["refuse", "primary"] = Field(
        "refuse",
        title="When ambiguous",
        description=(
            "A reader has several subscriptions that could be meant: `refuse`, or take the one that the target's rule "
            "`primary` chooses."
        ),
    )
    upgrade_wait: float = Field(
        3,
        ge=0,
        le=30,
        title="Upgrade wait",
        description="Seconds, 30 at most, to wait for a change of term that is made at once; later it is pending.",
    )
    checkout_url: str | None = Field(
        None,
        title="Checkout URL",
        description=(
            "Template of the link to your checkout, such as `https://example.com/buy?offer={offer_id}&promo={code}`; "
            "it may name `code`, `offer_id`, `term_id` and `user_id`."
        ),
    )
    push: bool = Field(
        True,  # noqa: FBT003 - a default
        title="Push",
        description="Tell Engage at once what an action changed; needs the target's `app_id` and `api_key`.",
    )
    language: str = Field(
        ENGLISH,
        title="Language",
        description="Language of the sentences for users where a request names none, such as `nl`.",
    )
    sentences: dict[str, dict[str, str]] | str = Field(
        {},
        title="Sentences",
        description=(
            "Sentences for users that replace ours, by language and reason, such as "
            "`{nl: {resumed: 'Welkom terug!{next_bill}'}}`; or the path of a JSON file that holds them."
        ),
    )
    tracker: str | None = Field(
        None, title="Tracker", description="Id of Engage's custom tracker that a finished checkout is told to."
    )
    make_codes: bool = Field(
        False,  # noqa: FBT003 - a default
        title="Make codes",
        description="Have Piano make a code where the pool of a promotion has none left.",
    )
    secrets: SecretStr | None = Field(
        None,
        title="Secrets",
        description="What callers of the service bring as `Authorization: Bearer`; several by commas.",
    )
    hmac_secret: SecretStr | None = Field(
        None,
        title="HMAC secret",
        description=(
            "With it the service also wants `X-Timestamp` and `X-Signature`: the HMAC-SHA256, in hex, of timestamp, "
            "full stop and body."
        ),
    )
    private_key: SecretStr | None = Field(
        None,
        title="Private key",
        description="Piano's private key of the application, for webhooks; without it none are taken.",
    )
    webhook_hmac: bool = Field(
        False,  # noqa: FBT003 - a default
        title="Webhook HMAC",
        description="Take only webhooks that bring Piano's HMAC. One that is brought must fit in any case.",
    )
    webhook_days: float = Field(
        7,
        gt=0,
        title="Webhook days",
        description="Days for which notes about webhooks are kept.",
    )
    host: str = Field("127.0.0.1", title="Host", description="Address at which the service listens.")
    port: int = Field(8787, ge=0, le=65535, title="Port", description="Its port; 0 takes a free one.")
    workers: int = Field(16, ge=1, title="Workers", description="Actions that the service does at the same time.")
    reader_actions_per_minute: float = Field(
        10, ge=0, title="Reader actions per minute", description="Actions of one reader that may begin; 0 is no limit."
    )
    actions_per_second: float = Field(
        20, ge=0, title="Actions per second", description="Actions in all that may begin; 0 is no limit."
    )
    requests_per_second: float = Field(
        10, ge=0, title="Requests per second", description="Requests a second to Piano, never more; 0 is no limit."
    )
    request_timeout: float = Field(
        10, gt=0, title="Request timeout", description="Seconds without a byte after which a request counts as lost."
    )
    retry_attempts: int = Field(
        3,
        ge=1,
        title="Retry attempts",
        description="How often a request is sent at most. Writes only where it is safe.",
    )
    retry_wait: float = Field(
        0.3, ge=0, title="Retry wait", description="Seconds before the second attempt; doubled each time."
    )
    retry_seconds: float = Field(
        15, ge=0, title="Retry seconds", description="Seconds after which no further attempt of a request begins."
    )

    @field_validator("sentences")
    @classmethod
    def _read_sentences(cls, given: dict[str, dict[str, str]] | str) -> dict[str, dict[str, str]]:
        """Read the sentences, from a file where one is named, and check them."""
        if isinstance(given, str):
            given = _sentences_of(given)
        check_sentences(given)
        return given

    def wording(self, zone: str) -> Wording:
        """Return how outcomes are put into words, with days by the calendar of *zone*."""
        assert isinstance(self.sentences, dict)  # noqa: S101 - the validator has read it
        return Wording(zone, self.sentences, self.language)

    @property
    def patience(self) -> Patience:
        """How long an answer is waited for, and how often it is asked again."""
        return Patience(
            timeout=self.request_timeout,
            attempts=self.retry_attempts,
            wait=self.retry_wait,
            total=self.retry_seconds,
        )


def _sentences_of(path: str) -> dict[str, dict[str, str]]:
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        msg = f"{path} cannot be read ({' '.join(str(e).split())})"
        raise ValueError(msg) from e
    return TypeAdapter(dict[str, dict[str, str]]).validate_python(read)


def schema() -> dict[str, Any]:
    """Describe the settings as the plugins' ``--about`` does, for documents and Meltano."""
    kinds: dict[Any, str] = {int: "integer", bool: "boolean"}
    secrets = (SecretStr, SecretStr | None)
    properties = {
        name: {"title": field.title, "description": field.description, "type": kinds.get(field.annotation, "string")}
        | ({"secret": True} if field.annotation in secrets else {})
        | ({} if field.is_required() or field.default is None else {"default": field.default})
        for name, field in Settings.model_fields.items()
    }
    required = [name for name, field in Settings.model_fields.items() if field.is_required()]
    return {"properties": properties, "required": required}


def settings_of(path: Path | None = None) -> Settings:
    """Read the settings from a JSON file, and from the environment what does not stand there.

    Raises:
        ConfigRefused: names each setting that is missing or cannot be used.
    """
    given: dict[str, Any] = {}
    take_own(os.environ, PREFIX, OF_ACCOUNT)
    if path is not None:
        try:
            given = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as e:
            msg = f"--config {path}: cannot be read as an object of JSON ({e})."
            raise ConfigRefused(msg) from e
    try:
        return Settings(**given)
    except ValidationError as e:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in e.errors(include_input=False))
        names = ", ".join(
            dict.fromkeys(f"{PREFIX}{str(one['loc'][0]).upper()}" for one in e.errors(include_input=False))
        )
        msg = f"{told}. Look at {names}, or at the file of --config."
        raise ConfigRefused(msg) from e


def client_of(
    settings: Settings, logger: logging.Logger, *, at_once: int = 1, watch: Watch | None = None
) -> PianoClient:
    """Make the client of the Publisher API; with a *watch*, attempts that fail are told of by that."""
    transport = transport_of(
        settings.patience,
        settings.requests_per_second,
        logger=logger,
        watch=watch,
        at_once=at_once,
        afterwards="nothing was changed at Piano, so it can be tried again",
    )
    return PianoClient(
        transport,
        url=settings.api_url or REGIONS[settings.region],
        aid=settings.aid,
        token=settings.api_token.get_secret_value(),
        page_size=PAGE_SIZE,
        logger=logger,
    )
