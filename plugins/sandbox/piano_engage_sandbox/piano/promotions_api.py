"""Endpoints of the Publisher API about promotions and promo codes (reference sheet of Piano, 3.2).

promotion/list shows active promotions unless asked for others, promotion/count counts all: the documented defaults
differ. promotion/code/create changes data although it is a GET.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.catalogue import ALL_TERMS, ANY_TERM_BY_ID
from piano_engage_sandbox.piano import shapes
from piano_engage_sandbox.piano.catalogue_api import holds, terms_answer
from piano_engage_sandbox.piano.envelope import Answer, ordered, paged
from piano_engage_sandbox.piano.promotions import ALL as ALL_PROMOTIONS
from piano_engage_sandbox.piano.promotions import EXPIRED, STATES, Promotions

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.catalogue import Term
    from piano_engage_sandbox.piano.envelope import Call
    from piano_engage_sandbox.piano.promotions import Code, Promotion, Shelf
    from piano_engage_sandbox.piano.shapes import Shape

BY: Final = "editor@example.com"


def shelf_of(call: Call) -> Shelf:
    """Give the promotions of the application a call is about."""
    return call.sandbox.part(Promotions).of(call.application)


def promotion_of(call: Call) -> Promotion:
    """Give the promotion a call is about; raises ApiError 2."""
    return shelf_of(call).get(call.params.required("promotion_id"))


def promotion_shape(call: Call, one: Promotion) -> Shape:
    """Write a `Promotion`: only the discount of its own type, no dates where there are none (live answers)."""
    shelf = shelf_of(call)
    start, end = shelf.dates(one)
    shape: Shape = {
        "promotion_id": one.promotion_id,
        "aid": call.application.aid,
        "name": one.name,
        "status": shelf.status(one, call.now),
        "fixed_promotion_code": None if one.prefix else one.code,
        "unlimited_uses": one.allowed is None,
        "promotion_code_prefix": one.code if one.prefix else None,
        "new_customers_only": one.new_customers_only,
    }
    if one.fixed:
        currency, cents = one.fixed[0]
        shape |= {
            "discount_amount": cents / 100,
            "discount_currency": currency,
            "discount": f"{cents / 100:.2f} {currency}",
        }
    else:
        shape["percentage_discount"] = one.percentage
    shape |= {
        "discount_type": "fixed" if one.fixed else "percentage",
        "uses_allowed": one.allowed,
        "uses": shelf.uses(one),
        "never_allow_zero": False,
        "term_dependency_type": "include" if one.terms else "all",
    }
    shape |= {name: at for name, at in (("start_date", start), ("end_date", end)) if at is not None}
    return shape | {
        "create_date": shelf.created(one),
        "create_by": BY,
        "update_date": shelf.updated(one),
        "update_by": BY,
        "deleted": False,
        "fixed_discount_list": [_discount(one, currency, cents) for currency, cents in one.fixed],
        "apply_to_all_billing_periods": one.all_periods,
        "can_be_applied_on_renewal": one.on_renewal,
        "billing_period_limit": 0 if one.all_periods else 1,
    }


def _discount(one: Promotion, currency: str, cents: int) -> Shape:
    return {
        "fixed_discount_id": f"FD{one.promotion_id[2:]}{currency}",
        "currency": currency,
        "amount": f"{cents / 100:.2f}",
        "amount_value": cents / 100,
    }


def code_shape(call: Call, one: Code) -> Shape:
    """Write a `PromoCode`: user, dates and price only where it was claimed or reserved."""
    shape: Shape = {
        "promo_code_id": one.code_id,
        "promotion_id": one.promotion_id,
        "code": one.text,
        "assigned_email": None,
        "state": STATES[one.state],
        "state_value": one.state,
        "create_date": one.created,
        "create_by": BY,
        "update_date": one.updated,
        "update_by": BY,
        "deleted": False,
    }
    if one.reserved is not None:
        shape["reserve_date"] = one.reserved
    if one.claimed is not None:
        shape["claimed_date"] = one.claimed
        shape["last_original_price"] = f"{shapes.SYMBOL}{one.price / 100:.2f}"
        known = call.application.world.person_of(one.uid)
        if known:
            shape["claimed_user"] = shapes.user(call, known[1])
    return shape


def _with_expired(call: Call, default: str) -> list[Promotion]:
    """List the promotions that the parameter `expired` lets through."""
    fits, shelf, now = EXPIRED[call.params.choice("expired", EXPIRED, default)], shelf_of(call), call.now
    return [one for one in ALL_PROMOTIONS if fits(shelf.status(one, now))]


def promotion_list(call: Call) -> Answer:
    """Answer promotion/list."""
    shelf = shelf_of(call)
    order: dict[str, Callable[[Promotion], Any]] = {
        "name": lambda one: one.name,
        "start_date": lambda one: shelf.dates(one)[0],
        "end_date": lambda one: shelf.dates(one)[1],
        "uses": shelf.uses,
        "promotion_code": lambda one: one.code,
    }
    q = call.params.text("q")
    found = [one for one in _with_expired(call, "active") if holds(q, one.name, one.promotion_id, one.code)]
    return paged(call, ordered(found, call, order), key="promotions", shape=lambda one: promotion_shape(call, one))


def promotion_get(call: Call) -> Answer:
    """Answer promotion/get."""
    return Answer("promotion", promotion_shape(call, promotion_of(call)))


def promotion_count(call: Call) -> Answer:
    """Answer promotion/count."""
    return Answer("data", len(_with_expired(call, "all")))


def promotion_exists(call: Call) -> Answer:
    """Answer promotion/exists: whether the user with an email address has a code of a promotion."""
    email, world = call.params.required("email").casefold(), call.application.world
    uids = {code.uid for code in shelf_of(call).codes(promotion_of(call)) if code.uid}
    people = (world.person_of(uid) for uid in uids)
    return Answer("data", any(known and known[1].email.casefold() == email for known in people))


def promotion_term_list(call: Call) -> Answer:
    """Answer promotion/term/list: the terms a promotion is restricted to, or all that take promo codes."""
    one, q = promotion_of(call), call.params.text("q")
    terms = [ANY_TERM_BY_ID[term_id] for term_id in one.terms] or [term for term in ALL_TERMS if term.renews]
    return terms_answer(call, [term for term in terms if holds(q, term.name, term.term_id)], _TERM_ORDER)


def _nothing(_one: object) -> None:
    """Order by what our terms do not have."""


_TERM_ORDER: Final[dict[str, Callable[[Term], Any]]] = {
    "term_id": lambda one: one.term_id,
    "type": lambda one: one.type,
    "name": lambda one: one.name,
    "resource_id": lambda one: one.resource.rid,
    "description": lambda one: one.name,
    **dict.fromkeys(
        (
            "pub_id", "app_id", "deleted", "TM", "is_checkout_supported", "verify_on_renewal", "verification_period",
            "fallback_term_id", "delivery_zone_id", "payment_allow_collect_address", "default_country_id",
        ),
        _nothing,
    ),
}  # fmt: skip


def _codes_found(call: Call) -> list[Code]:
    states, q = call.params.many("state", STATES), call.params.text("q")
    return [
        code
        for code in shelf_of(call).codes(promotion_of(call))
        if (not states or code.state in states) and holds(q, code.text, code.code_id)
    ]


def code_list(call: Call) -> Answer:
    """Answer promotion/code/list, whose data key is `data`."""
    codes = ordered(_codes_found(call), call, _CODE_ORDER)
    return paged(call, codes, key="data", shape=lambda one: code_shape(call, one))


_CODE_ORDER: Final[dict[str, Callable[[Code], Any]]] = {
    "promo_code_id": lambda one: one.code_id,
    "promotion_id": lambda one: one.promotion_id,
    "code": lambda one: one.text,
    "state": lambda one: one.state,
    "reserve_date": lambda one: one.reserved,
    "create_date": lambda one: one.created,
    "update_date": lambda one: one.updated,
    **dict.fromkeys(("pub_id", "assigned_email", "reserve_by", "create_by", "update_by", "deleted"), _nothing),
}


def code_count(call: Call) -> Answer:
    """Answer promotion/code/count."""
    return Answer("data", len(_codes_found(call)))


def _code_answer(call: Call, code: Code) -> Answer:
    return Answer(call.sandbox.switches.publisher.promo_code_key, code_shape(call, code))


def code_get(call: Call) -> Answer:
    """Answer promotion/code/get."""
    return _code_answer(call, shelf_of(call).code(call.params.required("promo_code_id")))


def code_create(call: Call) -> Answer:
    """Answer promotion/code/create."""
    promotion, text = promotion_of(call), call.params.required("code")
    return _code_answer(call, shelf_of(call).create(promotion, text, call.now))


def code_update(call: Call) -> Answer:
    """Answer promotion/code/update, which gives a code another text."""
    code_id, promotion = call.params.required("promo_code_id"), promotion_of(call)
    return _code_answer(call, shelf_of(call).rename(promotion, code_id, call.params.required("code"), call.now))


def code_delete(call: Call) -> Answer:
    """Answer promotion/code/delete, which takes several ids and answers nothing but success."""
    call.params.required("promo_code_id")
    shelf_of(call).delete(call.params.many("promo_code_id"), call.now)
    return Answer(void=True)


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "promotion/list": promotion_list,
    "promotion/get": promotion_get,
    "promotion/count": promotion_count,
    "promotion/exists": promotion_exists,
    "promotion/term/list": promotion_term_list,
    "promotion/code/list": code_list,
    "promotion/code/get": code_get,
    "promotion/code/create": code_create,
    "promotion/code/update": code_update,
    "promotion/code/delete": code_delete,
    "promotion/code/count": code_count,
}
"""Endpoints by their path."""
