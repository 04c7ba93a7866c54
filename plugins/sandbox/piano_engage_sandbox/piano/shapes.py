"""What is sold, and to whom, as the Publisher API writes it: resources, terms, offers, templates, the app, users.

Field names and types are those of the official SDK 16.988 (reference sheet of Piano, 3.1 to 3.8). A field without a
value is left out, but for the few that are null in live answers (1.4). Dates are epoch seconds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from piano_engage_sandbox.catalogue import ALL_TERMS, SOURCES, TERM_TYPES
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano.change_options import option_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from piano_engage_sandbox.actions import ChangeOption
    from piano_engage_sandbox.catalogue import AccessPeriod, Offer, Resource, Template, Term
    from piano_engage_sandbox.people import Person
    from piano_engage_sandbox.piano.envelope import Call
    from piano_engage_sandbox.service import Sandbox

Shape = dict[str, Any]

CURRENCY: Final = "EUR"
SYMBOL: Final = "€"
SITE: Final = "https://news.example"
OPENED: Final = 1_483_228_800
"""2017-01-01 UTC: the year in which the publisher set up what it sells, before the first reader came."""
PAID: Final = frozenset({"Payment", "Dynamic", "Gift"})
"""Types of term with payment fields; live terms of other types have none (reference sheet of Piano, 3.1)."""
BUNDLE_LABELS: Final = {"fixed": "Fixed", "tagged": "Tagged", "fixed_v2": "Fixed 2.0"}


def created(name: str) -> int:
    """Give the moment something was set up, the same for the same id."""
    return OPENED + crc32(name.encode()) % (300 * DAY)


def updated(name: str) -> int:
    """Give the moment something was last changed by the publisher."""
    return created(name) + crc32(b"updated/" + name.encode()) % (60 * DAY)


def term_type(term: Term) -> str:
    """Give the `type` of a term, such as grant_access."""
    return TERM_TYPES[term.type][0]


def resource(call: Call, one: Resource) -> Shape:
    """Write a `Resource`; URLs are null, the bundle fields are there for bundles only."""
    shape: Shape = {
        "rid": one.rid,
        "aid": call.application.aid,
        "deleted": False,
        "disabled": one.disabled,
        "create_date": created(one.rid),
        "update_date": updated(one.rid),
        "publish_date": created(one.rid),
        "name": one.name,
        "description": f"{one.name}, of {call.application.name}",
        "image_url": None,
        "type": one.kind,
        "type_label": one.kind.capitalize(),
        "purchase_url": None,
        "resource_url": None,
        "external_id": f"ext-{one.rid.lower()}",
        "is_fbia_resource": False,
    }
    if one.bundle:
        shape |= {"bundle_type": one.bundle, "bundle_type_label": BUNDLE_LABELS[one.bundle]}
    return shape


class Terms:
    """A part of the sandbox: terms already written, since long lists of subscriptions repeat each of them."""

    def __init__(self, _sandbox: Sandbox) -> None:
        """Begin with none."""
        self.written: dict[tuple[object, ...], Shape] = {}


def term(call: Call, one: Term) -> Shape:
    """Write a `Term`, with the change options that lead away from it as they are now. Nobody may change the shape."""
    options = tuple(option for option in call.application.change_options if option.from_term == one.term_id)
    written = call.sandbox.part(Terms).written
    key = (call.application.aid, one.term_id, options)
    if key not in written:
        written[key] = _term(call, one, options)
    return written[key]


def _term(call: Call, one: Term, options: Sequence[ChangeOption]) -> Shape:
    shape: Shape = {
        "term_id": one.term_id,
        "aid": call.application.aid,
        "resource": resource(call, one.resource),
        "type": term_type(one),
        "type_name": one.type,
        "name": one.name,
        "description": f"{one.name}: {one.plan}",
        "product_category": one.resource.name,
        "verify_on_renewal": False,
        "create_date": created(one.term_id),
        "update_date": updated(one.term_id),
        "collect_address": one.resource.kind == "print",
        "is_allowed_to_change_schedule_period_in_past": False,
        "change_options": [option_shape(option) for option in options],
        "shared_account_count": one.shared,
    }
    if one.shared:
        shape["shared_redemption_url"] = f"{SITE}/share/{one.term_id}"
    if one.type in PAID:
        shape |= _payment(one)
    return shape | _by_type(one)


def _payment(one: Term) -> Shape:
    """Write the fields of terms that are paid for."""
    rows = plan_table(one)
    shape: Shape = {
        "term_billing_descriptor": "EXAMPLE DAILY",
        "payment_billing_plan": " ".join(f"[{row['billing']}]" for row in rows),
        "payment_billing_plan_description": ", then ".join(row["totalBilling"] for row in rows),
        "payment_billing_plan_table": rows,
        "payment_force_auto_renew": one.type == "Dynamic",
        "payment_is_custom_price_available": False,
        "payment_is_subscription": one.renews,
        "payment_has_free_trial": one.trial_days > 0 and not one.trial_price,
        "payment_new_customers_only": False,
        "payment_trial_new_customers_only": one.trial_days > 0,
        "payment_allow_promo_codes": one.renews,
        "payment_allow_gift": False,
        "payment_currency": CURRENCY,
        "currency_symbol": SYMBOL,
        "payment_first_price": rows[0]["priceValue"],
    }
    if one.renews:
        shape |= {"payment_allow_renew_days": 30, "payment_renew_grace_period": one.grace_days}
    return shape


def _by_type(one: Term) -> Shape:
    """Write the fields that only terms of one type have."""
    write = _OF_TYPE.get(one.type)
    return write(one) if write else {}


def _dynamic(one: Term) -> Shape:
    periods = [_configured(period) for period in one.access_periods]
    return {"billing_config": "subscription", "billing_configuration": json.dumps(periods, ensure_ascii=False)}


def _external(one: Term) -> Shape:
    return {
        "external_api_id": f"XA{one.term_id[2:]}",
        "external_api_name": one.source.upper(),
        "external_api_source": SOURCES.index(one.source) + 1,
        "external_api_form_fields": [],
        "evt_verification_period": DAY,
        "evt_grace_period": 3,
    }


def _linked(one: Term) -> Shape:
    return {
        "external_term_id": f"linked-{one.term_id.lower()}",
        "external_product_ids": f"product-{one.resource.rid.lower()}",
        "subscription_management_url": f"{SITE}/account/{one.term_id}",
        "custom_data": {},
    }


_OF_TYPE: Final[dict[str, Callable[[Term], Shape]]] = {
    "Dynamic": _dynamic,
    "External": _external,
    "Linked": _linked,
    "Registration": lambda one: {"registration_access_period": one.days * DAY, "registration_grace_period": 0},
    "Ad View": lambda one: {"adview_access_period": one.days * DAY},
    "Custom": lambda one: {"custom_require_user": True, "custom_default_access_period": one.days * DAY},
}


def _configured(period: AccessPeriod) -> Shape:
    """Write one access period of `billing_configuration`; the names in that text are our guess."""
    return {
        "access_period_id": period.period_id,
        "name": period.name,
        "price": period.price / 100,
        "currency": CURRENCY,
        "months": period.months,
        "days": period.days,
        "cycles": period.cycles,
    }


def plan_table(one: Term) -> list[Shape]:
    """Write the rows of `payment_billing_plan_table`: trial, first periods, what follows (sheet, 3.1).

    Names in camel case and truth as text are those of live answers; that 0 cycles go on without end is our guess.
    """
    rows = []
    if one.trial_days:
        rows.append(_plan_row(one.trial_price, f"{one.trial_days} days", cycles=1, trial=True))
    if one.intro_count:
        rows.append(_plan_row(one.intro_price, one.period, cycles=one.intro_count))
    rows.append(_plan_row(one.price, one.period, cycles=0 if one.renews else 1))
    return rows


def _plan_row(cents: int, period: str, *, cycles: int, trial: bool = False) -> Shape:
    price = f"{SYMBOL}{cents / 100:.2f}" if cents else "Free"
    unit = period.rpartition(" ")[2].removesuffix("s")
    short = period.removeprefix("1 ")
    return {
        "date": "Today",
        "dateValue": OPENED,
        "period": period,
        "shortPeriod": f"/{short}",
        "paymentIntervalUnit": unit,
        "billingWithoutTax": f"{price} per {short}",
        "billingPeriod": period,
        "priceChargedStr": price,
        "priceValue": cents / 100,
        "cycles": str(cycles),
        "isFreeTrial": str(trial and not cents).lower(),
        "isTrial": str(trial).lower(),
        "isPayWhatYouWant": "false",
        "isFree": str(not cents).lower(),
        "billing": f"{price} | {period} | {cycles or 'until cancelled'}",
        "duration": period,
        "billingInfo": f"{price} per {short}",
        "priceAndTaxInMinorUnit": cents,
        "price": price,
        "priceAndTax": cents / 100,
        "currency": CURRENCY,
        "totalBilling": f"{price} for {period}" if cycles == 1 else f"{price} per {short}",
    }


def offer(call: Call, one: Offer) -> Shape:
    """Write an `OfferModel` with its terms."""
    return {
        "aid": call.application.aid,
        "name": one.name,
        "offer_id": one.offer_id,
        "status": "archived" if one.archived else "active",
        "deleted": False,
        "create_date": created(one.offer_id),
        "create_by": editor(),
        "update_date": updated(one.offer_id),
        "update_by": editor(),
        "terms": [term(call, item) for item in terms_of(one)],
    }


def terms_of(one: Offer) -> list[Term]:
    """List the terms of an offer."""
    return [item for item in ALL_TERMS if item.offer is one]


def template(call: Call, one: Template) -> Shape:
    """Write an `OfferTemplate`."""
    return {
        "offer_template_id": one.template_id,
        "token_type": "NON_STATIC",
        "aid": call.application.aid,
        "app_name": call.application.name,
        "name": one.name,
        "description": one.name,
        "deleted": False,
        "create_date": created(one.template_id),
        "create_by": editor(),
        "update_date": updated(one.template_id),
        "update_by": editor(),
        "publish_date": updated(one.template_id),
        "version": 1,
        "type": "Offer template",
        "type_id": "1",
        "category_id": "OTC0000001",
        "status": "active",
        "is_published": True,
        "count_variants": 0,
        "variant_list": [],
        "content_field_list": [],
        "can_be_global": False,
        "is_global": False,
        "is_inherited": False,
        "engine": "angular",
    }


def app(call: Call) -> Shape:
    """Write the `App`; Piano keeps private key and token to itself (sheet, 1.2)."""
    return {
        "aid": call.application.aid,
        "default_lang": "en_US",
        "email_lang": "en_US",
        "details": None,
        "email": "publisher@example.com",
        "name": call.application.name,
        "user_provider": "piano_id",
        "url": SITE,
        "logo1": f"{SITE}/logo.png",
        "logo2": None,
        "state": "active",
        "private_key": "",
        "api_token": "",
    }


def editor() -> Shape:
    """Write the `User` who has set up what is sold: a member of the publisher's staff."""
    return {
        "first_name": "Editor",
        "last_name": "Example",
        "email": "editor@example.com",
        "personal_name": "Editor Example",
        "uid": "PNI-editor-example",
        "image1": None,
        "create_date": OPENED,
        "display_name": "Editor Example",
    }


def user(call: Call, who: Person) -> Shape:
    """Write a `User`, whose custom fields are empty everywhere but in the endpoints about users (sheet, 1.9)."""
    entries = call.application.world.of_user(who.uid)
    since = entries[0].fate.create if entries else call.application.begins
    live = any(entry.state.live for entry in entries)
    visited = _last_visit(who, call.now, since, live=live)
    return {
        "first_name": who.first,
        "last_name": who.last,
        "email": who.email,
        "personal_name": f"{who.first} {who.last}",
        "uid": who.uid,
        "image1": None,
        "create_date": since,
        "reset_password_email_sent": False,
        "custom_fields": [],
        "last_visit": visited,
        "last_login": visited - visited % 60,
        "display_name": f"{who.first} {who.last}",
    }


def _last_visit(who: Person, now: int, since: int, *, live: bool) -> int:
    """Let a reader come back every so many days, as the log's column of last activity does."""
    every = who.visit_every if live else who.visit_every * 5
    today = now // DAY
    visited = (today - (today + who.phase) % every) * DAY + who.phase % DAY
    return max(visited if visited <= now else visited - every * DAY, since)
