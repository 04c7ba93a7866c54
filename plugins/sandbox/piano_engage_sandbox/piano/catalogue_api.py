"""Endpoints of the Publisher API about what is sold: terms, resources, offers, templates and the app.

Parameters, defaults and data keys are those of the reference sheet of Piano, 1.4, 3.1 and 3.7. Its open questions are
decided here as follows: `q` looks into names and ids, `upgrade_filter` changes nothing, `disabled` lists either the
enabled or the disabled resources, and an id nobody knows meets code 2 where no other refusal is documented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.catalogue import (
    ALL_OFFERS,
    ALL_RESOURCES,
    ALL_TERMS,
    ANY_TERM_BY_ID,
    SOURCES,
    TEMPLATES,
    TERM_TYPES,
)
from piano_engage_sandbox.piano import shapes
from piano_engage_sandbox.piano.envelope import Answer, ApiError, ordered, paged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from piano_engage_sandbox.catalogue import Offer, Resource, Term
    from piano_engage_sandbox.piano.envelope import Call

RESOURCE_LIMIT: Final = 25
"""Default page of resource/list, unlike all others."""
KINDS: Final = ("standard", "bundle", "print")
BUNDLE_NUMBERS: Final = {"1": "fixed", "2": "tagged", "3": "fixed_v2"}
TYPE_VALUES: Final = tuple(value for value, _number in TERM_TYPES.values())


def holds(q: str, *texts: str) -> bool:
    """Whether a search finds a thing by its texts: anywhere in one, in any case."""
    return not q or any(q.casefold() in text.casefold() for text in texts)


def known_term(term_id: str) -> Term:
    """Give a term by its id; raises ApiError 1001."""
    if term_id not in ANY_TERM_BY_ID:
        raise ApiError(1001)
    return ANY_TERM_BY_ID[term_id]


def terms_found(call: Call) -> list[Term]:
    """List the terms that all filters of term/list and term/count let through."""
    params = call.params
    include, exclude = params.many("include_type", TYPE_VALUES), params.many("exclude_type", TYPE_VALUES)
    sources = params.many("source", SOURCES)
    rid, term_id, kind = params.text("rid"), params.text("term_id"), params.choice("resource_type", KINDS)
    one_type, q = params.text("type"), params.text("q")
    return [
        term
        for term in ALL_TERMS
        if (not include or shapes.term_type(term) in include)
        and shapes.term_type(term) not in exclude
        and (not sources or term.source in sources)
        and rid in {"", term.resource.rid}
        and term_id in {"", term.term_id}
        and kind in {"", term.resource.kind}
        and one_type in {"", shapes.term_type(term)}
        and holds(q, term.name, term.term_id)
    ]


def terms_answer(call: Call, terms: Iterable[Term], order: dict[str, Callable[[Term], Any]]) -> Answer:
    """Answer with a page of terms."""
    return paged(call, ordered(terms, call, order), key="terms", shape=lambda one: shapes.term(call, one))


def term_list(call: Call) -> Answer:
    """Answer term/list."""
    return terms_answer(call, terms_found(call), _TERM_ORDER)


_TERM_ORDER: Final[dict[str, Callable[[Term], Any]]] = {
    "term_name": lambda one: one.name,
    "resource_type": lambda one: one.resource.kind,
    "resource_name": lambda one: one.resource.name,
}


def term_get(call: Call) -> Answer:
    """Answer term/get."""
    return Answer("term", shapes.term(call, known_term(call.params.required("term_id"))))


def term_count(call: Call) -> Answer:
    """Answer term/count."""
    return Answer("data", len(terms_found(call)))


def resource_list(call: Call) -> Answer:
    """Answer resource/list."""
    params = call.params
    tags, without, only = params.many("included_tag_id"), params.many("excluded_rid"), params.many("included_rid")
    kind, disabled = params.choice("type", (*KINDS, "NA"), "NA"), params.boolean("disabled")
    numbers = params.many("bundle_type", BUNDLE_NUMBERS) + params.many("bundle_types", BUNDLE_NUMBERS)
    bundles = {BUNDLE_NUMBERS[number] for number in numbers}
    params.choice("product_synchronization", ("all",))
    found = [
        one
        for one in ALL_RESOURCES
        if one.disabled == disabled
        and (not tags or set(tags) & set(one.tags))
        and one.rid not in without
        and (not only or one.rid in only)
        and kind in {"NA", one.kind}
        and (not bundles or one.bundle in bundles)
        and holds(params.text("q"), one.name, one.rid)
    ]
    return paged(
        call,
        ordered(found, call, _RESOURCE_ORDER, "name"),
        key="resources",
        shape=lambda one: shapes.resource(call, one),
        default_limit=RESOURCE_LIMIT,
    )


_RESOURCE_ORDER: Final[dict[str, Callable[[Resource], Any]]] = {
    "name": lambda one: one.name,
    "publish_date": lambda one: shapes.created(one.rid),
    "rid": lambda one: one.rid,
    "deleted": lambda _one: False,
    "description": lambda one: one.name,
    "type": lambda one: one.kind,
    "bundle_type": lambda one: one.bundle or None,
    "create_date": lambda one: shapes.created(one.rid),
    "update_date": lambda one: shapes.updated(one.rid),
}


def resource_get(call: Call) -> Answer:
    """Answer resource/get."""
    rid = call.params.required("rid")
    for one in ALL_RESOURCES:
        if one.rid == rid:
            return Answer("resource", shapes.resource(call, one))
    raise ApiError(2)


def offers_answer(call: Call, offers: Iterable[Offer]) -> Answer:
    """Answer with a page of offers."""
    found = [one for one in offers if holds(call.params.text("q"), one.name, one.offer_id)]
    return paged(call, ordered(found, call, _OFFER_ORDER), key="offers", shape=lambda one: shapes.offer(call, one))


_OFFER_ORDER: Final[dict[str, Callable[[Offer], Any]]] = {
    "offerId": lambda one: one.offer_id,
    "appId": lambda _one: None,
    "name": lambda one: one.name,
    "pubId": lambda _one: None,
    "status": lambda one: one.archived,
    "deleted": lambda _one: False,
    "createDate": lambda one: shapes.created(one.offer_id),
    "createBy": lambda _one: None,
    "updateDate": lambda one: shapes.updated(one.offer_id),
    "updateBy": lambda _one: None,
}


def offer_list(call: Call) -> Answer:
    """Answer offer/list; archived offers are listed too."""
    return offers_answer(call, ALL_OFFERS)


def known_offer(call: Call) -> Offer:
    """Give the offer a call is about; raises ApiError 2."""
    offer_id = call.params.required("offer_id")
    for one in ALL_OFFERS:
        if one.offer_id == offer_id:
            return one
    raise ApiError(2)


def offer_get(call: Call) -> Answer:
    """Answer offer/get."""
    return Answer("offer", shapes.offer(call, known_offer(call)))


def offer_term_list(call: Call) -> Answer:
    """Answer offer/term/list, which is a list without a documented page; it takes one all the same."""
    return terms_answer(call, shapes.terms_of(known_offer(call)), {})


def offer_term_offer_list(call: Call) -> Answer:
    """Answer offer/term/offer/list: the offers that hold a term."""
    term = known_term(call.params.required("term_id"))
    return offers_answer(call, [term.offer])


def template_list(call: Call) -> Answer:
    """Answer offer/template/list. Its data key is not known: `offer_templates` is named by the rule of the others."""
    params = call.params
    archived = params.choice("status", ("active", "archived")) == "archived"
    found = [one for one in TEMPLATES if not archived and holds(params.text("q"), one.name, one.template_id)]
    dates = ("published_date", "updated_date", "created_date", "archived_date")
    keys: dict[str, Callable[[Any], Any]] = {name: lambda one: shapes.updated(one.template_id) for name in dates}
    keys["name"] = lambda one: one.name
    return paged(call, ordered(found, call, keys), key="offer_templates", shape=lambda one: shapes.template(call, one))


def template_get(call: Call) -> Answer:
    """Answer offer/template/get, whose data key is not known either."""
    template_id = call.params.required("offer_template_id")
    for one in TEMPLATES:
        if one.template_id == template_id:
            return Answer("offer_template", shapes.template(call, one))
    raise ApiError(2)


def app_get(call: Call) -> Answer:
    """Answer app/get."""
    return Answer("app", shapes.app(call))


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "term/list": term_list,
    "term/get": term_get,
    "term/count": term_count,
    "resource/list": resource_list,
    "resource/get": resource_get,
    "offer/list": offer_list,
    "offer/get": offer_get,
    "offer/term/list": offer_term_list,
    "offer/term/offer/list": offer_term_offer_list,
    "offer/template/list": template_list,
    "offer/template/get": template_get,
    "app/get": app_get,
}
"""Endpoints by their path."""
