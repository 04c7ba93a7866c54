"""Answers of the Publisher API against Piano's description of it, reduced to names, types and enums in `fixtures/`.

The description is older than the official SDK and partly generated; what is known to be otherwise stands in
CORRECTIONS and OTHERS, each with the section of the reference sheet of Piano that says so. Where the SDK knows more
fields than the description, it is believed.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import types
import typing
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from jsonschema import Draft202012Validator, ValidationError
from piano_engage_sandbox import actions
from piano_engage_sandbox.catalogue import TERMS
from piano_engage_sandbox.piano import publisher, webhook_api
from piano_engage_sandbox.testing import serving
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World

    Json = dict[str, Any]

FIXTURE: Json = json.loads((Path(__file__).parent / "fixtures" / "publisher-schemas.json").read_text("utf-8"))


@dataclass(frozen=True)
class Correction:
    """What is otherwise than described, and where the sheet says so. `where` is a path, a schema, or schema.field."""

    what: str
    where: str
    value: Any
    why: str


CORRECTIONS = (
    Correction("required", "*", (), "1.4: absent values are left out of live answers"),
    Correction("closed", "*", (), "ours: an unknown field is a slip of the pen"),
    Correction("key", "subscription/list", "subscriptions", "1.4: live key"),
    Correction("key", "subscription/get", "subscription", "1.4: live key, UserSubscription is generated"),
    Correction("key", "subscription/search", "subscriptionLogItems", "1.4: live key, in camel case"),
    Correction("key", "offer/list", "offers", "1.4: live key"),
    Correction("key", "conversion/list", "conversions", "1.4: live key"),
    Correction("key", "user/get", "user", "1.4: live key"),
    Correction("key", "promotion/code/create", "promo_code", "1.4: unknown, the naming rule; a switch"),
    Correction("key", "promotion/code/get", "promo_code", "1.4: unknown, the naming rule; a switch"),
    Correction("key", "term/change/option/create", "term_change_option", "1.4: corrected by TF"),
    Correction("key", "term/change/getSubscriptionUpgradeStatus", "subscription_upgrade_status", "1.4: live key"),
    Correction("nullable", "PromoCode.last_original_price", (), "3.2: can be null"),
    Correction("nullable", "TermConversionDTO.subscription", (), "3.8: null without one"),
    Correction("nullable", "TermConversionDTO.user_payment", (), "3.8: null without one"),
    Correction("nullable", "TermConversion.subscription", (), "3.8: null without one"),
    Correction("nullable", "TermConversion.user_payment", (), "3.8: null without one"),
    Correction("field", "PaymentBillingPlanTable.paymentIntervalUnit", {"type": "string"}, "3.1: seen in live rows"),
    Correction("field", "PaymentBillingPlanTable.billingWithoutTax", {"type": "string"}, "3.1: seen in live rows"),
    Correction("field", "User.custom_fields", {"type": "array", "items": {"type": "object"}}, "3.8: values are texts"),
)
"""Every difference between the description and what is checked here."""

SDK_ONLY: Json = {"properties": {}}
TRUTH, NUMBER, NOTHING = {"type": "boolean"}, {"type": "integer"}, None


def one(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def many(name: str) -> Json:
    return {"type": "array", "items": one(name)}


OTHERS: dict[str, tuple[str, Json | None, str]] = {
    "resource/get": ("resource", one("Resource"), "1.4, 3.7"),
    "offer/get": ("offer", one("OfferModel"), "1.4, 3.7"),
    "offer/term/offer/list": ("offers", many("OfferModel"), "3.7"),
    "offer/template/list": ("offer_templates", many("OfferTemplate"), "3.7: key unknown, the naming rule"),
    "offer/template/get": ("offer_template", one("OfferTemplate"), "3.7: key unknown, the naming rule"),
    "promotion/exists": ("data", TRUTH, "1.4: plain values"),
    "promotion/code/update": ("promo_code", one("PromoCode"), "1.4: unknown, the naming rule; a switch"),
    "promotion/code/delete": ("", NOTHING, "3.2: nothing but success"),
    "subscription/stats": ("subscriptions", many("UserSubscriptionDto"), "1.4: unknown"),
    "subscription/isPartiallyRefundable": ("data", TRUTH, "1.4: plain values"),
    "conversion/get": ("conversion", one("TermConversion"), "1.4"),
    "conversion/data/get": ("conversion_data", one("TermConversionData"), "1.4"),
    "conversion/lastAccess": ("conversion", one("TermConversion"), "3.8"),
    "conversion/count": ("data", NUMBER, "1.4"),
    "user/list": ("users", many("User"), "1.4, 3.8"),
    "user/search": ("users", many("User"), "1.4, 3.8"),
    "user/access/list": ("accesses", many("Access"), "1.4"),
    "user/access/check": ("access", one("Access"), "1.4"),
}
"""Endpoints outside the part of the description in the fixture: data key, its value, section of the sheet."""


def sdk_model(name: str) -> type[BaseModel] | None:
    """Find the SDK's class of a schema."""
    file = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    try:
        found = import_module(f"pianosdk.publisher.models.{file}")
    except ModuleNotFoundError:
        return None
    return typing.cast("type[BaseModel]", getattr(found, name))


def sdk_type(hint: object) -> Json:
    """Turn a type of the SDK into a schema; its date-times are epoch seconds on the wire (sheet, 1.7)."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return sdk_type(next(part for part in typing.get_args(hint) if part is not type(None)))
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": sdk_type(typing.get_args(hint)[0])}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return one(hint.__name__)
    simple = {str: "string", bool: "boolean", int: "integer", float: "number", datetime: "integer"}
    return {"type": simple[hint]} if hint in simple else {}


def translated(schema: Json) -> Json:
    """Turn a schema of OpenAPI 3.0 into JSON Schema: nullable fields take null, objects take nothing unknown."""
    found = {key: value for key, value in schema.items() if key not in {"nullable", "default", "format"}}
    if "items" in found:
        found["items"] = translated(found["items"])
    if "properties" in found:
        found["properties"] = {name: translated(value) for name, value in found["properties"].items()}
        found.setdefault("additionalProperties", False)
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") else found


def corrected() -> dict[str, Json]:
    """Put description, SDK and corrections together: schemas by name."""
    schemas: dict[str, Json] = copy.deepcopy(FIXTURE["schemas"])
    waiting = [*schemas, "OfferTemplate", "UserSubscriptionDto", "TermConversion", "TermConversionData"]
    while waiting:
        name = waiting.pop()
        properties = schemas.setdefault(name, {"properties": {}})["properties"]
        model = sdk_model(name)
        for field, info in model.model_fields.items() if model else ():
            if field not in properties:
                properties[field] = sdk_type(info.annotation)
                waiting += set(re.findall(r"#/\$defs/(\w+)", json.dumps(properties[field]))) - set(schemas)
    for correction in CORRECTIONS:
        name, _, field = correction.where.partition(".")
        if correction.what == "nullable":
            schemas[name]["properties"][field]["nullable"] = True
        elif correction.what == "field":
            schemas[name]["properties"][field] = correction.value
    return {name: translated({"type": "object", **schema}) for name, schema in schemas.items()}


def validators() -> dict[str, tuple[str, bool, Draft202012Validator]]:
    """Make a validator for the body of each endpoint's answer, with its data key and whether it is a page."""
    answers = {path: (answer["key"], answer["value"]) for path, answer in FIXTURE["answers"].items()}
    for correction in CORRECTIONS:
        if correction.what == "key":
            answers[correction.where] = (correction.value, answers[correction.where][1])
    answers |= {path: (key, value) for path, (key, value, _) in OTHERS.items()}
    definitions, found = corrected(), {}
    for path, (key, value) in answers.items():
        page = value is not None and value.get("type") == "array"
        envelope = ["code", "ts", *(["limit", "offset", "total", "count"] if page else [])]
        schema = {
            "$defs": definitions,
            "type": "object",
            "properties": {name: {"type": "integer"} for name in envelope} | ({key: value} if key else {}),
            "required": [*envelope, *([key] if key else [])],
            "additionalProperties": False,
        }
        found[path] = (key, page, Draft202012Validator(schema))
    return found


VALIDATORS = validators()


def problems(path: str, body: Json) -> list[str]:
    """List what is wrong with the body of a successful answer."""
    _, _, validator = VALIDATORS[path]
    return [text for error in validator.iter_errors(body) for text in texts(error)]


def texts(error: ValidationError) -> list[str]:
    """Say what is wrong with the innermost value; of a value that may be null, what is wrong with it if it is not."""
    inner = [one for one in error.context or () if one.validator_value != "null"]
    return [text for one in inner for text in texts(one)] or [f"{error.json_path}: {error.message[:200]}"]


class Caller:
    """Calls endpoints of a sandbox, with example parameters that fit what it holds at the moment."""

    def __init__(self, server: Server) -> None:
        self.connection = HTTPConnection("127.0.0.1", server.port)
        self.numbers = itertools.count()
        self.application = next(iter(server.sandbox.piano.values()))

    @property
    def world(self) -> World:
        return self.application.world

    def call(self, path: str, params: Json, form: str = "GET") -> Json:
        """Call by GET, by POST with a query (`POST ?`), or by POST with a form (`POST`)."""
        text = urlencode(params, doseq=True)
        url, body = f"/api/v3/publisher/{path}", text if form == "POST" else None
        headers = {"api_token": self.application.token}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self.connection.request(form.split(maxsplit=1)[0], url if body else f"{url}?{text}", body, headers)
        return typing.cast("Json", json.load(self.connection.getresponse()))

    def entry(self, fits: Callable[[Entry], bool]) -> Entry:
        return next(entry for entry in self.world.entries.values() if fits(entry))

    def example(self, path: str) -> Json:
        """Give parameters the call will succeed with."""
        return {"aid": self.application.aid, **EXAMPLES[path](self)}

    def changing(self) -> Entry:
        """Find a subscription whose term change waits for its day, or ask for such a change."""
        for entry in self.world.entries.values():
            if actions.pending_change(self.world, entry):
                return entry
        params = self.change("1")
        assert self.call("term/change/do", {"aid": self.application.aid, **params})["data"] is True
        return self.world.entries[params["subscription_from"]]

    def change(self, timing: str) -> Json:
        """Find a change of term that can be made, with its settings."""
        for entry in self.world.entries.values():
            fits = entry.state.status == "Active" and entry.state.auto_renew
            for option in self.application.change_options if fits else ():
                if option.from_term != entry.fate.term.term_id or option.billing_timing != timing:
                    continue
                if actions.pending_change(self.world, entry) is None:
                    return {
                        "uid": self.world.person(entry.reader).uid,
                        "subscription_from": entry.id,
                        "term_to": option.to_term,
                        "billing_timing": timing,
                        "immediate_access": option.immediate_access,
                        "prorate_access": option.prorate_access,
                    }
        raise LookupError(timing)


def nothing(_caller: Caller) -> Json:
    return {}


def fixed(**params: str) -> Callable[[Caller], Json]:
    return lambda _caller: params


def subscription(fits: Callable[[Entry], bool]) -> Callable[[Caller], Json]:
    return lambda caller: {"subscription_id": caller.entry(fits).id}


def reader(caller: Caller) -> Json:
    return {"uid": next(iter(caller.world.users()))}


def conversion(caller: Caller) -> Json:
    found = caller.call("conversion/list", {"aid": caller.application.aid, "limit": 1})
    return {"term_conversion_id": found["conversions"][0]["term_conversion_id"]}


def resumable(caller: Caller) -> Json:
    """Find a subscription whose cancellation can be taken back, or cancel one."""
    for entry in caller.world.entries.values():
        if actions.guards(entry).can_be_resumed:
            return {"subscription_id": entry.id}
    params = caller.example("subscription/cancel/deferred")
    assert caller.call("subscription/cancel/deferred", params)["data"] is True
    return params


def access_of(caller: Caller) -> Json:
    entry = caller.entry(lambda entry: entry.state.status == "Active")
    return {"uid": caller.world.person(entry.reader).uid, "rid": entry.fate.term.resource.rid}


def code_of(caller: Caller) -> Json:
    where = {"aid": caller.application.aid, "promotion_id": "PRSUMMER0005", "state": "active", "limit": 1}
    return {"promo_code_id": caller.call("promotion/code/list", where)["data"][0]["promo_code_id"]}


def new_option(caller: Caller) -> Json:
    """Find two terms that no change option joins yet."""
    joined = {(option.from_term, option.to_term) for option in caller.application.change_options}
    terms = [term.term_id for term in TERMS if term.renews]
    one_term, other = next(pair for pair in itertools.permutations(terms, 2) if pair not in joined)
    settings = {"billing_timing": "1", "immediate_access": False, "prorate_access": False}
    return {"from_term_id": one_term, "to_term_id": other, **settings}


def any_subscription(_entry: Entry) -> bool:
    return True


EXAMPLES: dict[str, Callable[[Caller], Json]] = {
    "app/get": nothing,
    "webhook/settings": nothing,
    "term/list": nothing,
    "term/count": nothing,
    "term/get": fixed(term_id="TMD1GM0NTH01"),
    "resource/list": nothing,
    "resource/get": fixed(rid="BRALL0001"),
    "offer/list": nothing,
    "offer/get": fixed(offer_id="OFALLACC0001"),
    "offer/term/list": fixed(offer_id="OFALLACC0001"),
    "offer/term/offer/list": fixed(term_id="TMD1GM0NTH01"),
    "offer/template/list": nothing,
    "offer/template/get": fixed(offer_template_id="OTWALLA00001"),
    "promotion/list": fixed(expired="all"),
    "promotion/count": nothing,
    "promotion/get": fixed(promotion_id="PRSUMMER0005"),
    "promotion/exists": fixed(promotion_id="PRSUMMER0005", email="nobody@example.com"),
    "promotion/term/list": fixed(promotion_id="PRLASTDAY002"),
    "promotion/code/list": fixed(promotion_id="PRSUMMER0005"),
    "promotion/code/count": fixed(promotion_id="PRSUMMER0005"),
    "promotion/code/get": code_of,
    "promotion/code/create": lambda caller: {"promotion_id": "PRSUMMER0005", "code": f"NEW-{next(caller.numbers)}"},
    "promotion/code/update": lambda caller: {"promotion_id": "PRSUMMER0005", "code": "OTHER", **code_of(caller)},
    "promotion/code/delete": code_of,
    "subscription/list": nothing,
    "subscription/get": subscription(any_subscription),
    "subscription/search": nothing,
    "subscription/count": nothing,
    "subscription/stats": reader,
    "subscription/resume": resumable,
    "subscription/cancel": lambda caller: {
        **subscription(lambda entry: actions.guards(entry).cancelable)(caller),
        "refund_last_payment": False,
    },
    "subscription/cancel/deferred": subscription(lambda entry: actions.guards(entry).deferred_cancelable),
    "subscription/update": subscription(lambda entry: entry.state.status == "Active"),
    "subscription/isPartiallyRefundable": subscription(any_subscription),
    "conversion/list": nothing,
    "conversion/count": nothing,
    "conversion/get": conversion,
    "conversion/data/get": conversion,
    "conversion/lastAccess": access_of,
    "user/get": reader,
    "user/list": nothing,
    "user/search": nothing,
    "user/access/list": access_of,
    "user/access/check": access_of,
    "term/change/can": lambda caller: {"subscription_id": caller.change("0")["subscription_from"]},
    "term/change/do": lambda caller: caller.change("0"),
    "term/change/cancel": lambda caller: {"subscription_from": caller.changing().id},
    "term/change/getSubscriptionUpgradeStatus": lambda caller: {
        "subscription_id": caller.changing().id,
        "uid": caller.world.person(caller.changing().reader).uid,
    },
    "term/change/option/create": new_option,
}


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with serving(rows=800) as server:
        caller = Caller(server)
        yield caller
        caller.connection.close()


def test_each_endpoint_has_an_example_and_a_schema() -> None:
    by_hand = set(webhook_api.ENDPOINTS) - {"webhook/settings"}  # not in the description: see test_webhook_api
    assert set(EXAMPLES) == set(publisher.TABLE) - by_hand
    assert set(VALIDATORS) == set(publisher.TABLE) - by_hand


def test_each_described_endpoint_is_there() -> None:
    assert set(FIXTURE["parameters"]) <= set(publisher.TABLE)


def test_the_sdk_has_a_class_for_each_schema() -> None:
    assert {name for name in FIXTURE["schemas"] if sdk_model(name) is None} == {"PaymentBillingPlanTable"}


def test_each_correction_corrects_something() -> None:
    for correction in CORRECTIONS:
        name, _, field = correction.where.partition(".")
        if correction.what == "key":
            assert FIXTURE["answers"][name]["key"] != correction.value
        elif correction.what == "nullable":
            assert not FIXTURE["schemas"].get(name, SDK_ONLY)["properties"].get(field, {}).get("nullable")
        elif correction.what == "field":
            assert FIXTURE["schemas"][name]["properties"].get(field) != correction.value


@pytest.mark.parametrize("path", EXAMPLES)
def test_answers_are_as_described(path: str, caller: Caller) -> None:
    body = caller.call(path, {**caller.example(path), "limit": 200})
    assert body["code"] == 0, body
    assert problems(path, body) == []


@pytest.mark.parametrize("path", [path for path, (_, page, _) in VALIDATORS.items() if page])
def test_lists_have_something_to_check(path: str, caller: Caller) -> None:
    body = caller.call(path, caller.example(path))
    assert len(body[VALIDATORS[path][0]]) == body["count"] > 0


@pytest.mark.parametrize("expired", ["active", "expired", "not_started"])
def test_promo_codes_of_all_promotions_are_as_described(expired: str, caller: Caller) -> None:
    where = {"aid": caller.application.aid}
    for promotion in caller.call("promotion/list", {**where, "expired": expired})["promotions"]:
        for state in ("active", "used", "reserved_for_free_trial", "reserved_for_delayed_payment"):
            params = {**where, "promotion_id": promotion["promotion_id"], "state": state, "limit": 20}
            assert problems("promotion/code/list", caller.call("promotion/code/list", params)) == []


def spoilt(body: Json, key: str, how: str) -> Json:
    """Spoil a good page of terms in one way."""
    spoilt = copy.deepcopy(body)
    item = spoilt[key][0]
    changes: dict[str, Callable[[], Any]] = {
        "a number as text": lambda: item.update(create_date=str(item["create_date"])),
        "a truth as text": lambda: item.update(verify_on_renewal="false"),
        "an unknown field": lambda: item.update(term_nam=item["name"]),
        "an unknown field deep inside": lambda: item["resource"].update(resource_name="x"),
        "a word that is none": lambda: item.update(type="subscription"),
        "null where a value is due": lambda: item.update(name=None),
        "two data keys": lambda: spoilt.update(data=[]),
        "another data key": lambda: spoilt.update(data=spoilt.pop(key)),
        "no data key": lambda: spoilt.pop(key),
        "an item for a list": lambda: spoilt.update({key: item}),
        "no total": lambda: spoilt.pop("total"),
        "no time": lambda: spoilt.pop("ts"),
    }
    changes[how]()
    return spoilt


@pytest.mark.parametrize(
    "how",
    [
        "a number as text", "a truth as text", "an unknown field", "an unknown field deep inside",
        "a word that is none", "null where a value is due", "two data keys", "another data key", "no data key",
        "an item for a list", "no total", "no time",
    ],
)  # fmt: skip
def test_a_wrong_answer_is_found_out(how: str, caller: Caller) -> None:
    body = caller.call("term/list", caller.example("term/list"))
    assert problems("term/list", body) == []
    assert problems("term/list", spoilt(body, "terms", how))


def samples(path: str, caller: Caller) -> Json:
    """Give a value for every documented parameter of an endpoint."""
    found = caller.example(path)
    for name, schema in FIXTURE["parameters"][path]["parameters"].items():
        items = schema.get("items", schema)
        simple = {"boolean": "False", "integer": 1, "string": "TMD1GM0NTH01"}
        value = schema.get("default", items["enum"][0] if "enum" in items else simple[items["type"]])
        found.setdefault(name, [value, value] if "items" in schema else value)
    return found


FORMS = ("GET", "POST ?", "POST")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", FIXTURE["parameters"])
def test_every_documented_parameter_is_accepted(path: str, form: str, caller: Caller) -> None:
    body = caller.call(path, samples(path, caller), form)
    assert body["code"] in {0, *FIXTURE["answers"][path]["codes"]}, body
    assert body["code"] != 0 or problems(path, body) == []


def typed() -> list[tuple[str, str, Any]]:
    """List the parameters that take no other value than numbers, truths or some words."""
    return [
        (path, name, schema)
        for path, about in FIXTURE["parameters"].items()
        for name, schema in about["parameters"].items()
        if schema["type"] in {"integer", "boolean"} or "enum" in schema.get("items", schema)
    ]


SWITCHES = {
    "new_subscriptions_": "search_new_subscriptions",
    "active_now_subscriptions_": "search_active_now_subscriptions",
    "inactive_subscriptions_": "search_inactive_subscriptions",
    "subscriptions_inactive_": "search_inactive_subscriptions",
    "updated_subscriptions_": "search_updated_subscriptions",
    "subscriptions_updated_": "search_updated_subscriptions",
    "subscriptions_auto_renewing": "search_auto_renewing_subscriptions",
    "subscriptions_next_billing_date_": "search_subscriptions_by_next_billing_date",
    "subscriptions_term": "search_subscriptions_by_terms",
}
"""Beginnings of parameters of subscription/search → what switches them on (sheet, 3.5)."""


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, name, _ in typed()])
def test_every_typed_parameter_is_read(path: str, name: str, caller: Caller) -> None:
    switches = {switch: True for beginning, switch in SWITCHES.items() if name.startswith(beginning)}
    for form in FORMS:
        params = {**caller.example(path), **switches, name: "neither"}
        body = caller.call(path, params, form)
        assert body["code"] == 400, body
        assert name in body["validation_errors"]


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        (path, name, schema["items"]["enum"][:3])
        for path, name, schema in typed()
        if schema["type"] == "array" and len(schema["items"]["enum"]) > 1
    ],
)
def test_lists_are_repeated_keys_or_commas(path: str, name: str, words: list[str], caller: Caller) -> None:
    params = {**caller.example(path), "limit": 1000}
    answers = [
        caller.call(path, {**params, name: value}, form)
        for value in (words, ",".join(words), [",".join(words[:2]), *words[2:]])
        for form in FORMS
    ]
    assert all(answer == answers[0] for answer in answers)
