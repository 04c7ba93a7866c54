"""Promo codes: which hold, for whom, one of a pool for each reader, and the way to the checkout."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from piano_actions import checkout, promotions
from piano_actions.outcome import Status
from piano_actions.settings import Settings, client_of
from piano_actions.store import Request, Store
from piano_actions.tables import CODES
from piano_engage_common.stops import ConfigRefused
from piano_engage_sandbox.clock import DAY
from piano_engage_sandbox.engage.ping import Pings
from piano_engage_sandbox.piano.promotions import ALL, Promotions
from piano_engage_sandbox.testing import serving
from target_recurly_engage import results
from target_recurly_engage.contract import Contract
from target_recurly_engage.handover import Handover
from target_recurly_engage.ledger import Ledger
from target_recurly_engage.traits import Wording

from tests.actions.conftest import Piano, desk_of, settings_for
from tests.actions.test_service import served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result
    from piano_actions.desk import Desk
    from piano_engage_sandbox.world import Entry
    from tap_piano.client import PianoClient

CREATE, LIST = "promotion/code/create", "promotion/code/list"
SPRING, SUMMER, THREE, HURRY = (
    "PRSPRING0050", "PRSUMMER0005", "PRTHREE00003", "PRLASTDAY002",
)  # fmt: skip


def client(piano: Piano, folder: Path) -> PianoClient:

    return client_of(Settings(**settings_for(piano, folder)), logging.getLogger("test"))


def buyer(piano: Piano, test: Callable[[Entry], object] = lambda _one: True) -> Entry:
    """Give a subscription of a reader who pays, has one subscription only, and never had a code."""
    return piano.find(
        lambda one: piano.alone(one) and one.state.charge_count and one.fate.promotion is None and test(one)
    )


def wanted(piano: Piano, entry: Entry, promotion: str, **params: str) -> Request:
    return Request("promo_code", piano.uid(entry), {"promotion": promotion, **params})


def codes(piano: Piano, promotion_id: str) -> dict[str, str]:
    shelf = piano.server.sandbox.part(Promotions).of(piano.app)
    return {code.text: code.state for code in shelf.codes(shelf.get(promotion_id))}


def take_all(piano: Piano, store: Store) -> None:
    """Have all codes of the pool be somebody's."""
    rows = [
        {"promotion_id": SUMMER, "reader": f"other {text}", "code": text, "reserved_at": 0.0}
        for text in codes(piano, SUMMER)
    ]
    with store._engine.begin() as connection:
        connection.execute(CODES.insert(), rows)


def test_those_that_hold_now_are_listed(reading: Piano, tmp_path: Path) -> None:
    found = promotions.valid(client(reading, tmp_path))
    ids = {one.id for one in found}
    by_days = {one.promotion_id for one in ALL if (one.starts or 0) <= 0 and (one.ends is None or one.ends > 0)}
    assert ids <= by_days
    assert by_days - ids == {THREE} & by_days - ids, "the pool of three may be used up"
    for_yearly = {one.id for one in promotions.valid(client(reading, tmp_path), term_id="TMD1GYEAR004")}
    for_pass = {one.id for one in promotions.valid(client(reading, tmp_path), term_id="TMDAYPASS010")}
    assert for_yearly - for_pass == {HURRY, "PRJUBILEE025"}


def test_the_best_one_takes_most_off_the_first_price() -> None:
    def promotion(name: str, **item: Any) -> promotions.Promotion:  # noqa: ANN401 - JSON
        return promotions.Promotion({"promotion_id": name, **item})

    tenth = promotion("tenth", discount_type="percentage", percentage_discount=10.0)
    five = promotion(
        "five", discount_type="fixed",
        fixed_discount_list=[{"currency": "EUR", "amount_value": 5.0}, {"currency": "USD", "amount_value": 90.0}],
    )  # fmt: skip
    ten = {"payment_first_price": 10.0, "payment_currency": "EUR"}
    hundred = {"payment_first_price": 100.0, "payment_currency": "EUR"}
    assert promotions.best([tenth, five], ten) is five
    assert promotions.best([tenth, five], hundred) is tenth
    assert promotions.best([five], {"payment_first_price": 10.0, "payment_currency": "JPY"}) is None
    assert promotions.best([], ten) is None


@pytest.mark.parametrize(
    ("promotion", "term", "reason"),
    [
        (SPRING, None, "promotion_new_only"),
        ("PRXMAS000040", None, "promotion_ended"),
        ("PRAUTUMN0015", None, "promotion_not_begun"),
        (HURRY, "TMDAYPASS010", "promotion_other_term"),
        (HURRY, "TMD1GYEAR004", "eligible"),
        ("come BACK", None, "eligible"),
    ],
)
def test_who_may_use_what(reading: Piano, tmp_path: Path, promotion: str, term: str | None, reason: str) -> None:
    piano = client(reading, tmp_path)
    found = promotions.named(piano, promotion)
    assert found
    assert promotions.eligibility(piano, reading.uid(buyer(reading)), found, term).reason == reason


FREE_TERMS = {"registration", "newsletter", "ad view", "custom", "access granted"}
NOT_BEGUN = {"Pending", "Not started", "Wait confirmed", "Deleted"}


def is_new(entries: list[Entry], rule: str) -> bool:
    """Say by the sandbox's own world whether a user is a new customer; it shares no code with target or actions."""
    if rule == "never_paid":
        return not any(one.state.charge_count for one in entries)
    return all(one.fate.term.type.lower() in FREE_TERMS or one.state.status in NOT_BEGUN for one in entries)


@pytest.mark.parametrize("rule", ["never_had", "never_paid"])
def test_a_new_customer_is_who_the_setting_of_the_target_says(reading: Piano, tmp_path: Path, rule: str) -> None:
    piano, seen = client(reading, tmp_path), set[tuple[str, bool]]()
    spring = promotions.named(piano, SPRING)
    assert spring
    chosen: dict[tuple[str, str, bool], Entry] = {}
    for one in reading.world.entries.values():
        chosen.setdefault((one.state.status, one.fate.term.type, bool(one.state.charge_count)), one)
    for entry in chosen.values():
        found = promotions.eligibility(piano, reading.uid(entry), spring, new_customers=rule)
        new = is_new(reading.of_user(entry), rule)
        assert (found.reason != "promotion_new_only") == new, (entry.state.status, entry.fate.term.type)
        seen.add((found.reason, new))
    assert {new for _, new in seen} == {True, False}


def test_the_command_goes_by_the_setting_of_the_target(
    piano: Piano, ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has only a trial, or was given for nothing what others buy, is new by one setting and not by the other."""
    entry = piano.find(
        lambda one: not any(other.state.charge_count for other in piano.of_user(one)) and not is_new([one], "never_had")
    )
    reasons = {}
    for rule in ("never_had", "never_paid"):
        monkeypatch.setenv("TARGET_RECURLY_ENGAGE_NEW_CUSTOMERS", rule)
        arguments = ("promo", "eligible", "--user", piano.uid(entry), "--promotion", SPRING, "--json")
        reasons[rule] = json.loads(ask(*arguments).stdout)["reason"]
    assert reasons == {"never_had": "promotion_new_only", "never_paid": "eligible"}


def test_who_has_used_it_before_or_is_not_known(reading: Piano, tmp_path: Path) -> None:
    piano = client(reading, tmp_path)
    entry = reading.find(lambda one: one.fate.promotion and one.fate.promotion.code == "BACK30")
    back = promotions.named(piano, "BACK30")
    assert back
    assert promotions.eligibility(piano, reading.uid(entry), back).reason == "promotion_used"
    assert promotions.eligibility(piano, "no-such-reader", back).reason == "unknown_user"
    assert promotions.named(piano, "no such promotion") is None


def test_a_reader_has_one_code_of_a_pool_and_nobody_else_has_it(piano: Piano, settings: dict[str, Any]) -> None:
    readers = [one for one in piano.world.entries.values() if piano.alone(one)][:8]
    active = {text for text, state in codes(piano, SUMMER).items() if state == "active"}

    def reserve(entry: Entry) -> str:
        return str(desk_of(settings).run(wanted(piano, entry, SUMMER)).details["code"])

    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(reserve, readers))
    assert len(set(first)) == len(readers)
    assert set(first) <= active
    assert [reserve(entry) for entry in readers] == first
    again = desk_of(settings).run(wanted(piano, readers[0], SUMMER))
    assert (again.status, again.message) == (Status.ALREADY, f"Your code is {first[0]}.")


def test_a_code_for_all_needs_no_reservation(piano: Piano, desk: Desk) -> None:
    found = desk.run(wanted(piano, buyer(piano), "BACK30"))
    assert (found.reason, found.details["code"]) == ("code_for_all", "BACK30")
    assert desk.store.reserved("PRWINBACK030") == 0


def test_without_the_right_there_is_no_code(piano: Piano, desk: Desk) -> None:
    assert desk.run(wanted(piano, buyer(piano), SPRING)).reason == "promotion_new_only"
    assert desk.run(wanted(piano, buyer(piano), "nonsense")).reason == "promotion_unknown"


def test_a_code_that_was_used_meanwhile_is_told(piano: Piano, desk: Desk) -> None:
    entry = buyer(piano)
    used = next(text for text, state in codes(piano, SUMMER).items() if state == "used")
    desk.store.reserve(SUMMER, piano.uid(entry), used)
    found = desk.run(wanted(piano, entry, SUMMER))
    assert (found.reason, found.details["state"]) == ("code_used", "used")


def test_a_reserved_code_is_not_given_for_longer_than_its_promotion_holds(piano: Piano, desk: Desk) -> None:
    entry = buyer(piano)
    assert desk.run(wanted(piano, entry, SUMMER)).reason == "code_reserved"
    piano.server.control("POST", "clock", {"advance": "400d"})
    assert desk.run(wanted(piano, entry, SUMMER)).reason == "promotion_ended"


def test_of_promotions_with_one_name_that_one_is_meant_that_holds(
    piano: Piano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = piano.world.now
    last_year = {"promotion_id": "A", "name": "Summer", "promotion_code_prefix": "S-", "end_date": now - 9}
    this_year = {"promotion_id": "B", "name": "Summer", "promotion_code_prefix": "S-", "end_date": now + 9}
    older = {"promotion_id": "C", "name": "summer", "end_date": now - 99}
    found = client(piano, tmp_path)
    found.clock = now
    for listed in ([last_year, this_year, older], [this_year, older, last_year]):
        monkeypatch.setattr(found, "pages", lambda *_, listed=listed, **__: iter([listed]))
        for word, meant in (("summer", "B"), ("S-", "B"), ("A", "A"), ("C", "C")):
            one = promotions.named(found, word)
            assert one is not None
            assert one.id == meant
    monkeypatch.setattr(found, "pages", lambda *_, **__: iter([[older, last_year]]))
    one = promotions.named(found, "Summer")
    assert one is not None
    assert one.id == "A"
    assert promotions.named(found, "winter") is None


def test_an_empty_pool_is_told_and_filled_only_where_asked_for(piano: Piano, settings: dict[str, Any]) -> None:
    piano.server.control("POST", "clock", {"advance": f"{2 * DAY}s"})
    desk = desk_of(settings)
    take_all(piano, desk.store)
    first, second = buyer(piano), buyer(piano, lambda one: one is not buyer(piano))
    assert desk.run(wanted(piano, first, SUMMER)).reason == "no_code_left"
    making = desk_of(settings, make_codes=True)
    assert making.run(wanted(piano, first, SUMMER), dry_run=True).status is Status.WOULD
    piano.fault(CREATE, reset=True, when="after")
    found = making.run(wanted(piano, first, SUMMER))
    assert (found.status, codes(piano, SUMMER)[found.details["code"]]) == (Status.DONE, "active")
    assert piano.calls(CREATE) == 1
    piano.server.control("DELETE", "faults")
    piano.fault(CREATE, status=200, body=json.dumps({"code": 3005, "ts": 1, "message": "No"}))
    assert making.run(wanted(piano, second, SUMMER)).reason == "no_code_left"


def test_a_crash_while_a_code_is_made_makes_one(
    piano: Piano, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    crashed = desk_of(settings, make_codes=True)
    take_all(piano, crashed.store)
    crashed.store.owner = f"{crashed.store.owner.split('/')[0]}/1/0.00"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "reserve", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            crashed.run(wanted(piano, buyer(piano), SUMMER))
    (found,) = desk_of(settings, make_codes=True).recover()
    assert found.status is Status.DONE
    assert piano.calls(CREATE) == 1


# Experiments


def drawn(name: str, salt: str, user: str, arms: dict[str, float]) -> str | None:
    """Work an arm out as docs/segments.md describes it: the first 32 bits of a SHA-256."""
    share = int(hashlib.sha256(f"experiment:{name}:{salt}:{user}".encode()).hexdigest()[:8], 16) / 2**32
    upto = 0.0
    for arm, of in sorted(arms.items(), key=lambda one: (one[0] != "control", one[0])):
        upto += of
        if share < upto:
            return arm
    return None


def test_the_code_of_an_experiment_is_the_targets(
    ask: Callable[..., Result], settings: dict[str, Any], tmp_path: Path
) -> None:
    arms = {"SPRING50": 0.5, "BACK30": 0.2, "control": 0.2}
    experiment = {"name": "offer", "segment": "win_back", "arms": arms, "salt": "7"}
    target = {"ledger": "l", "experiments": [experiment], "segments": "all"}
    (tmp_path / "target.json").write_text(json.dumps(target))
    more = {"target_config": str(tmp_path / "target.json"), "checkout_url": "https://example.com/buy?promo={code}"}
    (tmp_path / "config.json").write_text(json.dumps({**settings, **more}))
    told = {}
    for user in (f"reader {n}" for n in range(40)):
        found = json.loads(ask("promo", "arm", "--user", user, "--experiment", "offer", "--json").stdout)
        told[user] = found["details"].get("arm")
        assert (found["status"] == "done") == (told[user] in {"SPRING50", "BACK30"})
        if found["status"] == "done":
            assert found["details"]["checkout_url"] == f"https://example.com/buy?promo={told[user]}"
    assert told == {user: drawn("offer", "7", user, arms) for user in told}
    assert set(told.values()) == {"control", "SPRING50", "BACK30", None}
    assert ask("promo", "arm", "--user", "u", "--experiment", "other").exit_code == 78


# The link


AWKWARD = "JUBILÉ 25%&x=1#\"'<script>/?+"


def test_a_code_comes_out_of_the_link_as_it_went_in() -> None:
    template = "https://example.com/buy/{term_id}?offer={offer_id}&promo={code}&u={user_id}#pay"
    made = checkout.link(template, {"code": AWKWARD, "term_id": "a/b", "offer_id": "OF1", "user_id": "ü&ö"})
    parts = urlsplit(made)
    assert parse_qs(parts.query) == {"offer": ["OF1"], "promo": [AWKWARD], "u": ["ü&ö"]}
    assert (parts.netloc, parts.path, parts.fragment) == ("example.com", "/buy/a%2Fb", "pay")
    line = checkout.snippet(template, {"code": AWKWARD})
    assert line.startswith("window.location.assign(")
    assert json.loads(line[len("window.location.assign(") : -2]) == checkout.link(template, {"code": AWKWARD})
    assert "<" not in line


@pytest.mark.parametrize(
    "template",
    [
        "https://example.com/buy", "http://example.com/{code}", "https://{code}.example.com/", "javascript:{code}",
        "https://example.com/{code}{email}", "https://example.com/{code", "https://example.com/{code!r}",
        "https://example.com/{code.__class__}", "https://example.com/{}",
    ],
)  # fmt: skip
def test_templates_that_lead_nowhere_are_refused(template: str) -> None:
    with pytest.raises(ConfigRefused, match="checkout_url"):
        checkout.check(template)


# Conversions, and the command


@pytest.fixture
def engaged(piano: Piano, settings: dict[str, Any], tmp_path: Path) -> str:
    """Let the settings reach the sandbox's Engage too, and give its tracker."""
    sandbox = piano.server.sandbox
    tracker = next(iter(sandbox.part(Pings).trackers))
    target = {
        "ledger": "l", "app_id": sandbox.app_id, "api_key": sandbox.api_key, "api_url": piano.server.url,
        "requests_per_second": 0,
    }  # fmt: skip
    (tmp_path / "target.json").write_text(json.dumps(target))
    more = {"target_config": str(tmp_path / "target.json"), "tracker": tracker}
    (tmp_path / "config.json").write_text(json.dumps({**settings, **more}))
    return str(tracker)


def test_a_checkout_is_told_to_engage_once_a_key(piano: Piano, ask: Callable[..., Result], engaged: str) -> None:
    uid = piano.uid(buyer(piano))
    assert ask("promo", "converted", "--user", uid, "--dry-run").stdout.startswith("would")
    piano.server.control("POST", "faults", {"part": "engage", "path": "/ping", "status": 503, "times": 2})
    for _ in range(2):
        done = json.loads(ask("promo", "converted", "--user", uid, "--key", "TC1", "--json").stdout)
        assert (done["status"], done["reason"]) == ("done", "conversion_told")
    events = piano.server.sandbox.part(Pings).events
    assert [(one.kind, one.subject, one.user_id) for one in events] == [("custom", engaged, uid)]


def test_a_checkout_reaches_the_results_with_the_next_run(
    piano: Piano, ask: Callable[..., Result], engaged: str, tmp_path: Path
) -> None:
    uid, folder = piano.uid(buyer(piano)), tmp_path / "handover"
    target = json.loads((tmp_path / "target.json").read_text()) | {"handover_path": str(folder)}
    (tmp_path / "target.json").write_text(json.dumps(target))
    for key in ("TC1", "TC1", "TC2"):
        assert ask("promo", "converted", "--user", uid, "--key", key).exit_code == 0
    (again, _) = sorted(folder.iterdir())
    (folder / "crash.json").write_text(again.read_text())  # as after a crash between leaving word and noting it
    contract, clock = Contract(wording=Wording()), datetime.now(UTC).isoformat()
    with closing(Ledger(tmp_path / "ledger.duckdb", memory_limit="100MB")) as ledger:
        for _ in range(2):
            handover = Handover(folder, logging.getLogger())
            assert handover.take(ledger, contract, run_id="r", clock=clock, csv_hours=3) == 0, "no trait was told"
        handover.done()
        assert results.results(ledger, contract, clock)["checkouts"] == [
            {"tracker": engaged, "checkouts": 2, "readers": 1}
        ]
    assert list(folder.iterdir()) == []


def pings(piano: Piano, engaged: str) -> int:
    return sum(one.subject == engaged for one in piano.server.sandbox.part(Pings).events)


def test_a_checkout_of_which_no_word_can_be_left_is_told_once_all_the_same(
    piano: Piano, ask: Callable[..., Result], engaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = json.loads((tmp_path / "target.json").read_text()) | {"handover_path": str(tmp_path / "target.json")}
    (tmp_path / "target.json").write_text(json.dumps(target))
    assert ask("promo", "converted", "--user", piano.uid(buyer(piano)), "--key", "TC1").exit_code == 0
    assert "no word of it could be left for the next run" in caplog.text
    for _ in range(3):
        assert ask("recover").exit_code == 0
    assert pings(piano, engaged) == 1


def test_checkouts_of_two_days_are_two_though_no_key_tells_them_apart(
    piano: Piano, settings: dict[str, Any], engaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = json.loads((tmp_path / "target.json").read_text()) | {"handover_path": str(tmp_path / "handover")}
    (tmp_path / "target.json").write_text(json.dumps(target))
    body, now = {"user_id": piano.uid(buyer(piano)), "tracker": engaged, "offer": "summer"}, time.time()
    with served(settings | {"target_config": str(tmp_path / "target.json")}, tmp_path) as service:
        for days in (0, 0, 2):
            monkeypatch.setattr("piano_actions.store.claims.time.time", lambda days=days: now + days * 86_400)
            assert service.ask("conversion", body)[1]["reason"] == "conversion_told"
    left = [json.loads(path.read_text())["checkouts"] for path in (tmp_path / "handover").glob("*.json")]
    assert (pings(piano, engaged), len({key for one in left for key in one})) == (2, 2)


def test_without_engage_the_key_stays_free(piano: Piano, ask: Callable[..., Result], engaged: str) -> None:
    uid = piano.uid(buyer(piano))
    piano.server.control("POST", "faults", {"part": "engage", "path": "/ping", "status": 500})
    assert ask("promo", "converted", "--user", uid, "--key", "TC1").exit_code == 75
    piano.server.control("DELETE", "faults")
    assert ask("promo", "converted", "--user", uid, "--key", "TC1", "--tracker", engaged).exit_code == 0


def test_the_commands_answer_in_words_and_in_json(
    piano: Piano, ask: Callable[..., Result], settings: dict[str, Any], tmp_path: Path
) -> None:
    uid = piano.uid(buyer(piano))
    assert "Come back: BACK30, 30 %" in ask("promo", "list").stdout
    listed = json.loads(ask("promo", "list", "--term", "TMD1GYEAR004", "--json").stdout)
    assert HURRY in {one["promotion_id"] for one in listed}
    (best,) = json.loads(ask("promo", "pick", "--term", "TMD1GYEAR004", "--json").stdout)
    assert best["promotion_id"] == "PRFREE000100"
    assert ask("promo", "pick", "--term", "nonsense").exit_code == 65
    assert ask("promo", "eligible", "--user", uid, "--promotion", "BACK30").exit_code == 0
    assert ask("promo", "eligible", "--user", uid, "--promotion", "SPRING50").exit_code == 65
    assert ask("promo", "eligible", "--user", uid, "--promotion", "nonsense").exit_code == 65
    assert ask("promo", "code", "--user", uid, "--promotion", "BACK30", "--snippet").exit_code == 78
    more = {"checkout_url": "https://example.com/buy?o={offer_id}&promo={code}"}
    (tmp_path / "config.json").write_text(json.dumps({**settings, **more}))
    arguments = ("promo", "code", "--user", uid, "--promotion", "BACK30", "--offer", "OF1")
    found = json.loads(ask(*arguments, "--json").stdout)
    assert found["details"]["checkout_url"] == "https://example.com/buy?o=OF1&promo=BACK30"
    assert ask(*arguments, "--snippet").stdout == (
        'window.location.assign("https://example.com/buy?o=OF1&promo=BACK30");\n'
    )


def test_the_service_gives_the_link_as_well(piano: Piano, settings: dict[str, Any], tmp_path: Path) -> None:
    template = "https://example.com/buy?o={offer_id}&t={term_id}&promo={code}"
    uid = piano.uid(buyer(piano))
    with served({**settings, "checkout_url": template}, tmp_path) as service:
        for _ in range(2):  # the second answer is the one that was kept
            _, told = service.ask("promo_code", {"user_id": uid, "promotion": "BACK30", "offer_id": "OF 1"})
            assert told["details"]["checkout_url"] == "https://example.com/buy?o=OF%201&t=&promo=BACK30"
        _, told = service.ask("promo_code", {"user_id": uid, "promotion": "NONE"})
        assert (told["reason"], "checkout_url" in (told.get("details") or {})) == ("promotion_unknown", False)
    with pytest.raises(ConfigRefused, match="checkout_url"), served({**settings, "checkout_url": "x"}, tmp_path):
        pass


def test_either_key_of_a_code_is_taken(tmp_path: Path) -> None:
    with serving(rows=60, switches={"publisher.promo_code_key": "PromoCode"}) as server:
        piano = Piano(server)
        desk = desk_of(settings_for(piano, tmp_path), make_codes=True)
        take_all(piano, desk.store)
        assert desk.run(wanted(piano, buyer(piano), SUMMER)).status is Status.DONE
