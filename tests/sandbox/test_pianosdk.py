"""Piano's own client, `pianosdk` 16.988, against the sandbox: every endpoint it has a method for, over a socket.

Each case calls one method and compares the models it fills with the world behind the sandbox.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox import catalogue
from piano_engage_sandbox.actions import option_for
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.piano import subscription_api, subscription_shapes
from piano_engage_sandbox.piano.publisher import BASE, TABLE
from piano_engage_sandbox.testing import serving
from pianosdk import ApiException, ApiResponse, Client, Configuration, HttpCallBack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.application import Application
    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import Entry, World
    from pianosdk.httpwrap import HttpRequest, HttpResponse

NOBODY = "00000000-0000-4000-8000-000000000000"
NO_SUBSCRIPTION = "RCNOB0DYHAS1"


@dataclass
class Calls(HttpCallBack):  # type: ignore[misc] - the SDK comes without types
    """Notes which endpoints the client calls."""

    paths: list[str] = field(default_factory=list)

    def on_before_request(self, request: HttpRequest) -> None:
        self.paths.append(request.query_url.partition(BASE)[2])

    def on_after_response(self, http_response: HttpResponse) -> None:
        pass


@dataclass
class Side:
    """Both sides of the socket: the client, and the world the sandbox answers from."""

    server: Server
    api: Any
    calls: Calls
    app: Application

    @property
    def aid(self) -> str:
        return self.app.aid

    @property
    def world(self) -> World:
        return self.app.world

    def entry(self, test: Callable[[Entry], bool] = lambda _entry: True) -> Entry:
        """Give the first subscription that a test accepts."""
        return next(entry for entry in self.world.entries.values() if test(entry))

    def uid(self, entry: Entry) -> str:
        return self.world.person(entry.reader).uid


@contextmanager
def connected(**options: Any) -> Iterator[Side]:  # noqa: ANN401 - those of serving()
    with serving(**options) as server:
        app = next(iter(server.sandbox.piano.values()))
        config = Configuration(
            api_host=server.url, api_token=app.token, private_key=app.private_key, max_retries=0, timeout=20
        )
        calls = Calls()
        try:
            yield Side(server, Client(config=config, http_callback=calls), calls, app)
        finally:
            config.http_client.session.close()


@pytest.fixture(scope="module")
def reading() -> Iterator[Side]:
    """A sandbox that nobody changes."""
    with connected() as side:
        yield side


@pytest.fixture
def side() -> Iterator[Side]:
    with connected() as side:
        yield side


def is_live(kind: str, *, auto_renew: bool = True) -> Callable[[Entry], bool]:
    """Accept live subscriptions of a type of term that nothing is in the way of."""
    return lambda entry: (
        entry.state.status == "Active"
        and entry.fate.term.type == kind
        and entry.state.auto_renew == auto_renew
        and entry.state.upgrade_status == "No upgrade"
        and entry.state.last_amount > 0
    )


def moment(when: datetime | None) -> int | None:
    """Turn what the SDK made of epoch seconds back."""
    return None if when is None else int(when.timestamp())


Case = tuple["Callable[[Side], ApiResponse[Any]]", "Callable[[Side, Any], object]"]


def ids(name: str) -> Callable[[list[Any]], list[Any]]:
    return lambda items: [getattr(item, name) for item in items]


READS: dict[str, Case] = {
    "term/list": (
        lambda s: s.api.publisher_term_api.list(s.aid, limit=500),
        lambda _, terms: {t.term_id: t.name for t in terms} == {t.term_id: t.name for t in catalogue.ALL_TERMS},
    ),
    "term/get": (
        lambda s: s.api.publisher_term_api.get("TMD1GM0NTH01"),
        lambda _, term: (
            (term.type, term.type_name, term.payment_currency, term.resource.rid)
            == ("dynamic", "Dynamic", "EUR", "RDIG1T4")
            and [option.to_term_id for option in term.change_options] == ["TMPREM0NTH05", "TMD1GYEAR004"]
        ),
    ),
    "term/count": (
        lambda s: s.api.publisher_term_api.count(s.aid),
        lambda _, count: count == len(catalogue.ALL_TERMS),
    ),
    "resource/list": (
        lambda s: s.api.publisher_resource_api.list_resources(s.aid),
        lambda _, resources: len(resources) == 25 and all(resource.rid and resource.name for resource in resources),
    ),
    "resource/get": (
        lambda s: s.api.publisher_resource_api.get_resource(s.aid, "RPREM77"),
        lambda s, resource: (resource.name, resource.aid) == ("Digital Premium", s.aid),
    ),
    "offer/list": (
        lambda s: s.api.publisher_offer_api.list(s.aid),
        lambda _, offers: {offer.offer_id for offer in offers} >= {offer.offer_id for offer in catalogue.OFFERS},
    ),
    "offer/get": (
        lambda s: s.api.publisher_offer_api.get(catalogue.SPRING.offer_id),
        lambda _, offer: offer.name == catalogue.SPRING.name and offer.create_by.email,
    ),
    "offer/term/list": (
        lambda s: s.api.publisher_offer_term_api.list_terms(catalogue.SPRING.offer_id),
        lambda _, terms: ids("term_id")(terms) == ["TMSTUDENT008"],
    ),
    "offer/term/offer/list": (
        lambda s: s.api.publisher_offer_term_offer_api.list_offer_by_term(s.aid, "TMSTUDENT008"),
        lambda _, offers: ids("offer_id")(offers) == [catalogue.SPRING.offer_id],
    ),
    "offer/template/list": (
        lambda s: s.api.publisher_offer_template_api.list(s.aid),
        lambda _, found: {t.offer_template_id for t in found} == {t.template_id for t in catalogue.TEMPLATES},
    ),
    "offer/template/get": (
        lambda s: s.api.publisher_offer_template_api.get(s.aid, catalogue.WALL.template_id),
        lambda _, template: template.name == catalogue.WALL.name,
    ),
    "app/get": (
        lambda s: s.api.publisher_app_api.get(s.aid),
        lambda s, app: (app.aid, app.name, app.api_token, app.private_key) == (s.aid, s.app.name, "", ""),
    ),
    "webhook/settings": (
        lambda s: s.api.publisher_webhook_api.get_settings(s.aid),
        lambda _, settings: {"new_purchase", "subscription_resumed"} <= {config.key for config in settings.configs},
    ),
    "webhook/status": (
        lambda s: s.api.publisher_webhook_api.status(s.aid),
        lambda _, status: status.status == "disabled" and status.description,
    ),
    "webhook/events": (
        lambda s: s.api.publisher_webhook_api.events(s.aid),
        lambda _, kinds: {"subscription_created", "term_change"} <= set(kinds),
    ),
    "promotion/list": (
        lambda s: s.api.publisher_promotion_api.list(s.aid),
        lambda _, promotions: promotions and {promotion.status for promotion in promotions} == {"active"},
    ),
    "promotion/get": (
        lambda s: s.api.publisher_promotion_api.get("PRSPRING0050", s.aid),
        lambda _, promotion: (
            (promotion.discount_type, promotion.percentage_discount, promotion.fixed_promotion_code)
            == ("percentage", 50.0, "SPRING50")
        ),
    ),
    "promotion/count": (
        lambda s: s.api.publisher_promotion_api.count(s.aid),
        lambda s, count: count > s.api.publisher_promotion_api.list(s.aid).total,
    ),
    "promotion/exists": (
        lambda s: s.api.publisher_promotion_api.code_exists("PRSPRING0050", s.aid, "nobody@example.com"),
        lambda _, exists: exists is False,
    ),
    "promotion/term/list": (
        lambda s: s.api.publisher_promotion_term_api.term_list("PRLASTDAY002", s.aid),
        lambda _, terms: set(ids("term_id")(terms)) == {"TMD1GYEAR004", "TMPREYEAR006"},
    ),
    "promotion/code/list": (
        lambda s: s.api.publisher_promotion_code_api.list("PRSUMMER0005", s.aid, state=["used", "active"], limit=50),
        lambda _, codes: (
            {code.state_value for code in codes} == {"used", "active"}
            and all((code.claimed_user is not None) == (code.state_value == "used") for code in codes)
        ),
    ),
    "promotion/code/get": (
        lambda s: s.api.publisher_promotion_code_api.get(first_code(s).promo_code_id, s.aid),
        lambda s, code: code == first_code(s),
    ),
    "promotion/code/count": (
        lambda s: s.api.publisher_promotion_code_api.count("PRSUMMER0005", s.aid),
        lambda _, count: count == 4000,
    ),
    "subscription/list": (
        lambda s: s.api.publisher_subscription_api.list(s.aid, limit=1000),
        lambda s, found: ids("subscription_id")(found) == list(s.world.entries) and all(map(fits, [s] * 200, found)),
    ),
    "subscription/get": (
        lambda s: s.api.publisher_subscription_api.get(s.aid, s.entry(is_live("Dynamic")).id),
        lambda s, one: fits(s, one) and fits_whole(s, one),
    ),
    "subscription/search": (
        lambda s: s.api.publisher_subscription_api.search(
            s.aid, search_subscriptions_by_terms=True, subscriptions_term_types=["gift", "grant_access"]
        ),
        lambda s, found: (
            set(ids("subscription_id")(found))
            == {e.id for e in s.world.entries.values() if e.fate.term.type in {"Gift", "Access Granted"}}
            and all(item.email == s.world.person(s.world.entries[item.subscription_id].reader).email for item in found)
        ),
    ),
    "subscription/count": (
        lambda s: s.api.publisher_subscription_api.count(s.aid),
        lambda s, count: count == sum(entry.state.status == "Active" for entry in s.world.entries.values()) > 0,
    ),
    "subscription/stats": (
        lambda s: s.api.publisher_subscription_api.stats(s.aid, s.uid(s.entry(is_live("Payment")))),
        lambda s, found: (
            s.entry(is_live("Payment")).id in ids("subscription_id")(found)
            and {"A", "FAR", "E", "EWE", "C", "UPGRD", "END", "NS"} >= {item.status for item in found}
            and all(item.next_bill_date is None or datetime.fromisoformat(item.next_bill_date) for item in found)
        ),
    ),
    "subscription/isPartiallyRefundable": (
        lambda s: s.api.publisher_subscription_api.is_partially_refundable(s.aid, s.entry(is_live("Payment")).id),
        lambda _, answer: answer is True,
    ),
    "term/change/can": (
        lambda s: s.api.publisher_term_change_api.can_change_term(s.entry(is_live("Dynamic")).id),
        lambda _, answer: answer is True,
    ),
    "user/get": (
        lambda s: s.api.publisher_user_api.get(s.aid, s.uid(s.entry())),
        lambda s, user: (
            (user.uid, user.email) == (s.uid(s.entry()), s.world.person(s.entry().reader).email)
            and moment(user.create_date) == s.world.of_user(user.uid)[0].fate.create
        ),
    ),
    "user/list": (
        lambda s: s.api.publisher_user_api.list(s.aid, limit=1000),
        lambda s, users: ids("uid")(users) == list(s.world.users()) and any(user.custom_fields for user in users),
    ),
    "user/search": (
        lambda s: s.api.publisher_user_api.search(s.aid, email=s.world.person(s.entry().reader).email),
        lambda s, users: ids("uid")(users) == [s.uid(s.entry())],
    ),
    "user/access/list": (
        lambda s: s.api.publisher_user_access_api.list_access(s.aid, s.uid(s.entry(is_live("Payment")))),
        lambda s, found: any(
            access.granted and moment(access.expire_date) == s.entry(is_live("Payment")).state.access_until
            for access in found
        ),
    ),
    "user/access/check": (
        lambda s: s.api.publisher_user_access_api.check_access(s.aid, s.uid(s.entry()), "RARCH10"),
        lambda _, access: access.granted is False and access.resource.rid == "RARCH10",
    ),
    "conversion/list": (
        lambda s: s.api.publisher_conversion_api.list(s.aid, uid=s.uid(s.entry(is_live("Payment")))),
        lambda s, found: (
            s.entry(is_live("Payment")).id in {item.subscription.subscription_id for item in found}
            and all(item.user_payment is None or item.user_payment.amount > 0 for item in found)
        ),
    ),
    "conversion/get": (
        lambda s: s.api.publisher_conversion_api.get(s.aid, term_conversion_id=a_conversion(s).term_conversion_id),
        lambda s, found: found.term_conversion_id == a_conversion(s).term_conversion_id and found.billing_plan,
    ),
    "conversion/data/get": (
        lambda s: s.api.publisher_conversion_data_api.get_data(s.aid, a_conversion(s).term_conversion_id),
        lambda s, data: (
            (data.uid, data.term_id) == (a_conversion(s).subscription.user.uid, a_conversion(s).term.term_id)
        ),
    ),
    "conversion/lastAccess": (
        lambda s: s.api.publisher_conversion_api.get_last(s.aid, subscription_id=s.entry(is_live("Payment")).id),
        lambda s, found: moment(found.create_date) == s.entry(is_live("Payment")).state.last_billing,
    ),
    "conversion/count": (
        lambda s: s.api.publisher_conversion_api.count(s.aid),
        lambda s, count: count == s.api.publisher_conversion_api.list(s.aid, limit=1).total,
    ),
}
"""Endpoints that change nothing: the call, and what must hold of the model it fills."""


def first_code(side: Side) -> Any:  # noqa: ANN401 - a model of the SDK
    return side.api.publisher_promotion_code_api.list("PRSUMMER0005", side.aid, limit=1).data[0]


def a_conversion(side: Side) -> Any:  # noqa: ANN401 - a model of the SDK
    return side.api.publisher_conversion_api.list(side.aid, limit=1).data[0]


def fits(side: Side, item: Any) -> bool:  # noqa: ANN401 - a model of the SDK
    """Compare a subscription of a list with the world; raises AssertionError where they differ."""
    entry = side.world.entries[item.subscription_id]
    state, fate, who = entry.state, entry.fate, side.world.person(entry.reader)
    assert (item.user.uid, item.user.email) == (who.uid, who.email)
    assert (item.term.term_id, item.resource.rid) == (fate.term.term_id, fate.term.resource.rid)
    assert moment(item.start_date) == fate.start
    assert moment(item.end_date) == state.end
    assert moment(item.next_bill_date) == state.next_billing
    assert moment(item.trial_period_end_date) == fate.trial_end
    assert (item.auto_renew, item.charge_count) == (state.auto_renew, state.charge_count)
    assert item.status_name == state.status
    assert item.is_in_trial == (state.trial_status == "In trial")
    return True


def fits_whole(side: Side, item: Any) -> bool:  # noqa: ANN401 - a model of the SDK
    entry = side.world.entries[item.subscription_id]
    assert moment(item.create_date) == entry.fate.create
    assert (item.can_be_resumed, item.deferred_cancelable, item.cancelable) == (False, True, True)
    assert (item.is_active, item.will_auto_renew, item.in_grace_period) == (True, True, False)
    return True


def change_scheduled(side: Side) -> Entry:
    """Let a reader ask for a term change at the end of his period, through the SDK."""
    options = side.app.change_options

    def waits(entry: Entry) -> bool:
        option = option_for(options, entry)
        return is_live(entry.fate.term.type)(entry) and option is not None and option.billing_timing == "1"

    entry = side.entry(waits)
    option = option_for(options, entry)
    assert option
    side.api.publisher_term_change_api.change(
        side.aid,
        side.uid(entry),
        entry.id,
        option.to_term,
        "1",
        immediate_access=option.immediate_access,
        prorate_access=option.prorate_access,
    )
    return entry


def upgrade_status(side: Side, entry: Entry) -> Any:  # noqa: ANN401 - a response of the SDK
    return side.api.publisher_term_change_api.get_subscription_upgrade_status(side.aid, side.uid(entry), entry.id)


def switched_off(side: Side) -> Entry:
    """Let a dynamic subscription be cancelled at the end of its period, through the SDK."""
    entry = side.entry(is_live("Dynamic"))
    side.api.publisher_subscription_cancel_api.deferred_cancel_subscription(side.aid, entry.id)
    return entry


def bill_date(side: Side) -> datetime:
    """Give a day far ahead the way the SDK wants it: naive, UTC."""
    return datetime.fromtimestamp(side.world.now + 40 * DAY, UTC).replace(tzinfo=None)


ACTIONS: dict[str, Case] = {
    "subscription/resume": (
        lambda s: s.api.publisher_subscription_api.resume_subscription(s.aid, switched_off(s).id),
        lambda s, answer: answer is True and s.entry(is_live("Dynamic")).state.auto_renew,
    ),
    "subscription/cancel": (
        lambda s: s.api.publisher_subscription_api.cancel_subscription(s.aid, s.entry(is_live("Payment")).id),
        lambda _, answer: answer is True,
    ),
    "subscription/cancel/deferred": (
        lambda s: s.api.publisher_subscription_cancel_api.deferred_cancel_subscription(
            s.aid, s.entry(is_live("Dynamic")).id
        ),
        lambda _, answer: answer is True,
    ),
    "subscription/update": (
        lambda s: s.api.publisher_subscription_api.update(
            s.aid, s.entry(is_live("Payment")).id, next_bill_date=bill_date(s)
        ),
        lambda s, answer: answer is True and s.entry(is_live("Payment")).state.next_billing == s.world.now + 40 * DAY,
    ),
    "term/change/do": (
        lambda s: s.api.publisher_term_change_api.change(
            s.aid,
            s.uid(s.entry(is_live("Dynamic"))),
            s.entry(is_live("Dynamic")).id,
            "TMPREM0NTH05",
            "0",
            immediate_access=True,
            prorate_access=True,
        ),
        lambda _, answer: answer is True,
    ),
    "term/change/cancel": (
        lambda s: s.api.publisher_term_change_api.cancel(s.aid, change_scheduled(s).id),
        lambda _, answer: answer is True,
    ),
    "term/change/getSubscriptionUpgradeStatus": (
        lambda s: upgrade_status(s, change_scheduled(s)),
        lambda _, status: (
            status.status == 0
            and status.to_term_id.startswith("TM")
            and datetime.fromisoformat(status.change_date) > datetime.fromisoformat(status.create_date_to)
        ),
    ),
    "term/change/option/create": (
        lambda s: s.api.publisher_term_change_option_api.create(
            s.aid,
            "TMPUZZLES009",
            "TMD1GM0NTH01",
            "1",
            immediate_access=False,
            prorate_access=False,
            description="From puzzles to news",
        ),
        lambda _, option: (
            (option.from_term_name, option.billing_timing, option.description)
            == ("Puzzles", "1", "From puzzles to news")
        ),
    ),
    "webhook/settings/update": (
        lambda s: s.api.publisher_webhook_settings_api.update_settings(s.aid, "http://127.0.0.1:9/", enabled=False),
        lambda s, answer: (
            answer is True and s.api.publisher_webhook_api.get_settings(s.aid).data.url == "http://127.0.0.1:9/"
        ),
    ),
    "promotion/code/create": (
        lambda s: s.api.publisher_promotion_code_api.create("PRSUMMER0005", s.aid, "SUMMER-NEW"),
        lambda s, code: s.api.publisher_promotion_code_api.get(code.promo_code_id, s.aid).data == code,
    ),
    "promotion/code/update": (
        lambda s: s.api.publisher_promotion_code_api.update(
            first_code(s).promo_code_id, s.aid, "PRSUMMER0005", "SUMMER-OTHER"
        ),
        lambda s, code: (code.code, first_code(s).code) == ("SUMMER-OTHER", "SUMMER-OTHER"),
    ),
    "promotion/code/delete": (
        lambda s: s.api.publisher_promotion_code_api.delete([first_code(s).promo_code_id], s.aid),
        lambda s, nothing: (
            nothing == {} and s.api.publisher_promotion_code_api.count("PRSUMMER0005", s.aid).data == 3999
        ),
    ),
}
"""Endpoints that change something: the call, and what must hold after it."""
ELSEWHERE = {"webhook/list", "webhook/get", "webhook/skip", "webhook/response/list", "webhook/response/resend"}
"""Endpoints about events that were sent: test_webhook_api.py calls them with the same client, and has a receiver."""


def run(side: Side, path: str, case: Case) -> None:
    call, holds = case
    response = call(side)
    assert side.calls.paths[-1] == path
    assert response.code == 0
    assert response.ts == int(side.server.sandbox.now())
    assert response.request_id
    assert holds(side, response.data)


@pytest.mark.parametrize("path", READS)
def test_a_model_is_filled_from_the_world(reading: Side, path: str) -> None:
    run(reading, path, READS[path])


@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_is_done(side: Side, path: str) -> None:
    run(side, path, ACTIONS[path])


def test_every_endpoint_has_a_case() -> None:
    assert set(READS) | set(ACTIONS) | ELSEWHERE == set(TABLE)
    assert len(READS) + len(ACTIONS) + len(ELSEWHERE) == len(TABLE)


def test_pages_add_up_to_the_whole(reading: Side) -> None:
    pages = [reading.api.publisher_subscription_api.list(reading.aid, offset=at, limit=30) for at in range(0, 210, 30)]
    assert [(page.offset, page.limit, page.total, page.count) for page in pages] == [
        (at, 30, 200, min(30, 200 - at)) for at in range(0, 210, 30)
    ]
    assert [item.subscription_id for page in pages for item in page.data] == list(reading.world.entries)


def test_resources_come_25_at_a_time(reading: Side) -> None:
    first = reading.api.publisher_resource_api.list_resources(reading.aid)
    second = reading.api.publisher_resource_api.list_resources(reading.aid, offset=25)
    assert (first.count, first.limit) == (25, 25)
    assert first.count + second.count == first.total
    assert not {one.rid for one in first.data} & {one.rid for one in second.data}


REFUSED: dict[str, tuple[int, Callable[[Side], object]]] = {
    "an unknown user": (2004, lambda s: s.api.publisher_user_api.get(s.aid, NOBODY)),
    "access of an unknown user": (2004, lambda s: s.api.publisher_user_access_api.list_access(s.aid, NOBODY)),
    "an unknown resource": (
        403,
        lambda s: s.api.publisher_user_access_api.check_access(s.aid, s.uid(s.entry()), "RN0B0DY"),
    ),
    "an unknown subscription": (8005, lambda s: s.api.publisher_subscription_api.get(s.aid, NO_SUBSCRIPTION)),
    "resuming an unknown one": (
        8005,
        lambda s: s.api.publisher_subscription_api.resume_subscription(s.aid, NO_SUBSCRIPTION),
    ),
    "an unknown term": (1001, lambda s: s.api.publisher_term_api.get("TMN0B0DY0000")),
    "an option to an unknown term": (
        1001,
        lambda s: s.api.publisher_term_change_option_api.create(
            s.aid, "TMPUZZLES009", "TMN0B0DY0000", "1", immediate_access=False, prorate_access=False
        ),
    ),
    "an option to a gift": (
        1062,
        lambda s: s.api.publisher_term_change_option_api.create(
            s.aid, "TMPUZZLES009", "TMG1FT3MO011", "1", immediate_access=False, prorate_access=False
        ),
    ),
    "an option that is there": (
        1069,
        lambda s: s.api.publisher_term_change_option_api.create(
            s.aid, "TMD1GM0NTH01", "TMPREM0NTH05", "1", immediate_access=False, prorate_access=False
        ),
    ),
    "changing what has no option": (
        1012,
        lambda s: s.api.publisher_term_change_api.can_change_term(
            s.entry(lambda e: e.fate.term.term_id == "TMSTAFF00012").id
        ),
    ),
    "withdrawing no change": (
        1012,
        lambda s: s.api.publisher_term_change_api.cancel(s.aid, s.entry(is_live("Dynamic")).id),
    ),
    "billing today": (
        8001,
        lambda s: s.api.publisher_subscription_api.update(
            s.aid, s.entry(is_live("Payment")).id, next_bill_date=datetime.fromtimestamp(s.world.now, UTC)
        ),
    ),
    "cancelling what has ended": (
        8002,
        lambda s: s.api.publisher_subscription_api.cancel_subscription(
            s.aid, s.entry(lambda e: e.state.status == "Expired").id
        ),
    ),
    "a code too many": (
        3005,
        lambda s: s.api.publisher_promotion_code_api.create("PRTHREE00003", s.aid, "THREE-4"),
    ),
    "another aid": (2, lambda s: s.api.publisher_term_api.list("N0B0DYSaid")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_raises_with_its_code(reading: Side, what: str) -> None:
    code, call = REFUSED[what]
    with pytest.raises(ApiException) as caught:
        call(reading)
    assert caught.value.error_code == code
    assert caught.value.request_id
    assert not caught.value.is_transport_error


def test_a_refund_of_nothing_is_refused() -> None:
    free = "TMTR1AL14D02"
    with connected(rows=1000) as side:
        entry = side.entry(lambda e: e.state.live and e.fate.term.term_id == free and not e.state.charge_count)
        with pytest.raises(ApiException) as caught:
            side.api.publisher_subscription_api.cancel_subscription(side.aid, entry.id, refund_last_payment=True)
        assert caught.value.error_code == 8004
        assert side.api.publisher_subscription_api.get(side.aid, entry.id).data.is_active


def test_a_wrong_token_is_access_denied(side: Side) -> None:
    config = Configuration(api_host=side.server.url, api_token="of-somebody-else", max_retries=0)  # noqa: S106
    try:
        with pytest.raises(ApiException) as caught:
            Client(config=config).publisher_subscription_api.list(side.aid)
    finally:
        config.http_client.session.close()
    assert caught.value.error_code == 2
    assert not caught.value.is_transport_error


def test_resuming_what_is_not_cancelled_is_answered_false(reading: Side) -> None:
    entry = reading.entry(is_live("Dynamic"))
    assert reading.api.publisher_subscription_api.resume_subscription(reading.aid, entry.id).data is False


@pytest.mark.parametrize(("answer", "code"), [("code_2", 2), ("code_8005", 8005)])
def test_resuming_what_is_not_cancelled_can_be_an_error(answer: str, code: int) -> None:
    with connected(switches={"publisher.resume_refusal": answer}) as side, pytest.raises(ApiException) as caught:
        side.api.publisher_subscription_api.resume_subscription(side.aid, side.entry(is_live("Payment")).id)
    assert caught.value.error_code == code


def test_the_comparison_notices_a_wrong_date(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = subscription_shapes.list_item
    monkeypatch.setattr(subscription_api, "list_item", lambda view: whole(view) | {"start_date": view.call.now + 1})
    with pytest.raises(AssertionError):
        run(side, "subscription/list", READS["subscription/list"])
