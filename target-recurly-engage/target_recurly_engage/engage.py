"""Engage's Ingest API: one user a request (fact sheet of Engage, section 1).

What nobody documents is a setting: the form, where the key goes, and what its parameter is called. No error and no log
names a user, a value or the key.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from piano_engage_common.stops import AccessRefused, AnswerRefused, ConfigRefused, RunStopped
from piano_engage_common.transport import RunEnds, TryAgain, label_of, phrase_of

from target_recurly_engage.destinations import application_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from piano_engage_common.transport import Answer, Transport

PATH: Final = "/ingest/property"
LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where Engage is, and as whom to write.

    Attributes:
        url: of the API, without the path.
        app_id: Engage's id of the application.
        api_key: its key.
        form: ``json`` or ``query``.
        key_in: ``basic`` (user: application id, password: key), ``query``, or ``both``.
        key_parameter: name of the query parameter that carries the key.
    """

    url: str
    app_id: str
    api_key: str = field(repr=False)
    form: str = "json"
    key_in: str = "basic"
    key_parameter: str = "api_key"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Engage does not take what is told of this user.

    Attributes:
        status: of HTTP.
        reason: in Engage's words.
        unclear: the answer does not say that nothing was applied.
    """

    status: int
    reason: str
    unclear: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of the traits of one user after they were sent.

    Attributes:
        refusal: Engage rejected them; None where it took them, and where there is an error.
        error: why there was no usable answer.
        unclear: Engage may have applied them although it did not acknowledge them.
    """

    refusal: Refusal | None = None
    error: Exception | None = None
    unclear: bool = False


class IngestClient:
    """Writes traits of users; used by many threads.

    Args:
        transport: sends, paces and retries.
        access: where and as whom.
    """

    def __init__(self, transport: Transport, access: Access) -> None:
        """Prepare what all requests have in common."""
        self.transport = transport
        self._access = access
        self._url = f"{access.url.rstrip('/')}{PATH}"
        self._label = label_of("POST", self._url)
        self._headers = {"Accept": "application/json"}
        if access.key_in in {"basic", "both"}:
            pair = base64.b64encode(f"{access.app_id}:{access.api_key}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
        self._params = {access.key_parameter: access.api_key} if access.key_in in {"query", "both"} else {}

    @property
    def application(self) -> str:
        """Return the application as the ledger's destinations have it."""
        return application_of(self._access.app_id, self._access.url)

    def attempt(self, user_id: str, properties: Mapping[str, Any]) -> Outcome:
        """Write traits of one user, and return what is known afterwards; raises nothing."""
        lost = False

        def note(again: TryAgain) -> None:
            nonlocal lost
            lost = lost or not (again.untouched and again.status != HTTPStatus.SERVICE_UNAVAILABLE)

        try:
            refusal = self.write(user_id, properties, note)
        except (RunEnds, RunStopped) as e:
            return Outcome(error=e, unclear=lost)
        except Exception as e:  # noqa: BLE001 - whoever asked raises it once all requests have ended
            return Outcome(error=e, unclear=True)
        return Outcome(refusal=refusal, unclear=refusal is not None and (lost or refusal.unclear))

    def write(
        self,
        user_id: str,
        properties: Mapping[str, Any],
        note: Callable[[TryAgain], None] = lambda _: None,
    ) -> Refusal | None:
        """Write traits of one user.

        Args:
            user_id: as the site tells it to Engage.
            properties: values by trait; texts, numbers, true and false.
            note: called with each attempt that has to be repeated.

        Returns:
            None when Engage took them.

        Raises:
            AccessRefused: the application id or the key is refused.
            AnswerRefused: there is no Ingest API at that address.
            Outage: Engage did not answer, however often it was asked.
            RunEnds: the run is to end; whether Engage took them is not known.
        """

        def attempt() -> Answer:
            try:
                answer = self._send(user_id, properties)
            except TryAgain as e:
                note(e)
                self.transport.pace.slow(min(e.not_before, self.transport.patience.total))
                raise
            self.transport.pace.climb()
            return answer

        return self._judge(self.transport.retrying(self._label, attempt))

    def _send(self, user_id: str, properties: Mapping[str, Any]) -> Answer:
        access = self._access
        if access.form == "json":
            body = {"id": access.app_id, "user_id": user_id, "properties": properties}
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
            headers = {**self._headers, "Content-Type": "application/json"}
            return self.transport.once(
                "POST", self._url, params=self._params, headers=headers, data=data, may_be_empty=True
            )
        pairs = [
            ("id", access.app_id),
            ("userId", user_id),
            *self._params.items(),
            *((f"properties[{quote(name, safe='')}]", _text(value)) for name, value in properties.items()),
        ]
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
        return self.transport.once("POST", f"{self._url}?{query}", headers=self._headers, may_be_empty=True)

    def _judge(self, answer: Answer) -> Refusal | None:
        body = answer.body or {}
        said, status = _said(body), answer.status
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            if _is_taken(body):
                return None
            rejected = str(body.get("success")).lower() == "false"
            words = "success is false" if rejected else "an answer without success"
            return Refusal(status, said or words, unclear=not rejected)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            msg = (
                f"{self._label} was refused with {status} ({said or 'no words'}): check app_id, api_key and "
                "ingest_key_in. What was not sent stays due."
            )
            raise AccessRefused(msg)
        if status < HTTPStatus.BAD_REQUEST or status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            msg = f"{self._label} was answered with {status}: there is no Ingest API. Check api_url and ingest_form."
            raise AnswerRefused(msg)
        return Refusal(status, said or phrase_of(status) or "no words")


def access_of(config: Mapping[str, Any]) -> Access:
    """Read the target's settings.

    Raises:
        ConfigRefused: one that is needed is missing.
    """
    for setting in ("app_id", "api_key"):
        if not config.get(setting):
            msg = f"{setting}: is needed for the Ingest API. Pulse shows it under Settings > Application."
            raise ConfigRefused(msg)
    return Access(
        url=config["api_url"],
        app_id=config["app_id"],
        api_key=config["api_key"],
        form=config["ingest_form"],
        key_in=config["ingest_key_in"],
        key_parameter=config["ingest_key_parameter"],
    )


def _is_taken(body: Mapping[str, Any]) -> bool:
    """Return whether Engage acknowledges the traits: it says so, or answers nothing at all as one example shows."""
    if not body:
        return True
    return str(body.get("success")).lower() == "true" and not body.get("errors") and not body.get("error")


def _said(body: Mapping[str, Any]) -> str:
    """Return Engage's words on what is wrong, from whichever member has them."""
    for member in ("message", "error", "errors"):
        found = body.get(member)
        first = found[0] if isinstance(found, list) and found else found
        words = first.get("message") if isinstance(first, dict) else first
        if isinstance(words, str) and words:
            return words[:LONGEST_REASON]
    return ""


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
