"""The link to a checkout with a promo code filled in, and the line of JavaScript for a website action of Engage."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from piano_engage_common.stops import ConfigRefused

from piano_actions.words import outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from piano_actions.outcome import Outcome

PLACES: Final = ("code", "offer_id", "term_id", "user_id")
"""What a template may name."""


def check(template: str) -> str:
    """Look whether links can be made from a template, such as ``https://example.com/buy?offer={offer_id}&promo={code}``.

    Raises:
        ConfigRefused: says what is wrong with it.
    """
    try:
        fields = [(name, spec or how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as e:
        msg = f"checkout_url: is no template ({e}). Write braces around names only, such as {{code}}."
        raise ConfigRefused(msg) from e
    names = {name for name, _ in fields}
    if any(more for _, more in fields) or names - set(PLACES) or "code" not in names:
        msg = f"checkout_url: names {sorted(names)}; it needs {{code}} and may name {', '.join(PLACES[1:])}."
        raise ConfigRefused(msg)
    parts = urlsplit(template)
    if parts.scheme != "https" or not parts.netloc or "{" in parts.netloc:
        msg = "checkout_url: begins with https:// and the name of your site, please."
        raise ConfigRefused(msg)
    return template


def link(template: str, values: Mapping[str, str]) -> str:
    """Fill a template in, each value so that it stays one value; what is not known is left empty."""
    filled = {name: quote(values.get(name) or "", safe="") for name in PLACES}
    return check(template).format(**filled)


def snippet(template: str, values: Mapping[str, str]) -> str:
    """Write the JavaScript that leads a reader to the link; safe within a ``<script>`` as well."""
    address = json.dumps(link(template, values)).replace("<", "\\u003c").replace("\u2028", "").replace("\u2029", "")
    return f"window.location.assign({address});"


def linked(found: Outcome, template: str | None, *, user_id: str, offer_id: str | None, term_id: str | None) -> Outcome:
    """Add the link to the checkout, and the line for a website action, to an outcome with a code.

    Args:
        found: the outcome; one without a code stays as it is.
        template: the setting ``checkout_url``; without one there is no link.
        user_id: the reader.
        offer_id: for the link.
        term_id: for the link.
    """
    if not template or not found.well:
        return found
    values = {"code": found.details["code"], "offer_id": offer_id or "", "term_id": term_id or "", "user_id": user_id}
    more = {"checkout_url": link(template, values), "snippet": snippet(template, values)}
    return outcome(found.action, found.status, found.reason, **found.details, **more)
