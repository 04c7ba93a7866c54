"""Where actions are asked for: each request is done once, whoever asks for it how often, and a crash loses none.

The order of things is what makes that true: the request is noted, the subscription is chosen and noted, Piano is asked,
Piano is read back, the outcome is noted. Every action begins by reading what is so, so beginning anew after a crash
between any two of these does nothing twice.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Protocol

from piano_engage_common.stops import ConfigRefused, RunStopped
from target_recurly_engage.eligibility import NEVER_HAD

from piano_actions import conversions, pool, promotions, resubscribe, upgrade, upgrade_cancel
from piano_actions.erasing import is_erased
from piano_actions.outcome import Outcome, Status
from piano_actions.store import KEPT_SECONDS, Claim, InFlight, ReaderBusy, Request
from piano_actions.watch import Watch
from piano_actions.words import outcome

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from tap_piano.client import PianoClient

    from piano_actions.engage import Engage
    from piano_actions.store import Store
    from piano_actions.subscriptions import Subscription

    Note = Callable[..., None]

POLL_SECONDS: Final = 0.05
PROCESSED_SECONDS: Final = 3600.0
"""So long a change that Piano took on, and that cannot be seen yet, is looked for; then it counts as pending."""
FRESH_SECONDS: Final = 10.0
"""So long an answer is given again without a look whether it still holds: impatient clicks, requests sent again."""


class Do(Protocol):
    """Does one action."""

    def __call__(
        self, desk: Desk, request: Request, chosen: Mapping[str, Any], note: Note, *, dry_run: bool = False
    ) -> Outcome:
        """Do what *request* asks for; *chosen* is what was found out before a crash, *note* keeps what is found out."""


class Desk:
    """Takes requests and has them done.

    Args:
        piano: the Publisher API.
        store: the notes.
        choose: picks one of several subscriptions by the target's rule; None where several are refused.
        engage: gives what talks to Engage, when it is needed.
        tell: called with a reader of whom Engage has to be told, and the subscription that was changed; None where that
            is left to the nightly run.
        make_codes: make a promo code where a pool has none left.
        new_customers: returns the target's setting of that name.
        upgrade_wait: seconds to wait for a change of term that is to be made at once.
        logger: told of what was left behind.
    """

    def __init__(  # noqa: PLR0913 - the parts it is put together from
        self,
        piano: PianoClient,
        store: Store,
        *,
        choose: Callable[[list[Subscription]], str | None] | None,
        engage: Callable[[], Engage] | None = None,
        tell: Callable[[str, str | None], object] | None = None,
        make_codes: bool = False,
        new_customers: Callable[[], str] = lambda: NEVER_HAD,
        upgrade_wait: float = 0.0,
        logger: logging.Logger,
    ) -> None:
        """Be ready."""
        self.engage = engage
        self.tell = tell
        self.make_codes = make_codes
        self.new_customers = new_customers
        self.upgrade_wait = upgrade_wait
        self.piano = piano
        self.store = store
        self.choose = choose
        self._logger = logger
        self._stopping = False
        self._left = Watch("Bringing to an end what was left behind", logger)

    def run(self, request: Request, *, dry_run: bool = False, patience: float = 60.0) -> Outcome:
        """Do what is asked for, or give the answer that was given before.

        Args:
            request: what is asked for.
            dry_run: change nothing, and note nothing.
            patience: seconds to wait for who is at the same request, or at another one of the same reader.

        Raises:
            InFlight, ReaderBusy: somebody was at it for longer than that.
            KeyTaken: the key stands for another request.
            RunStopped: it could not be done, and surely was not.
        """
        if dry_run:
            return _ACTIONS[request.action](self, request, {}, _no_note, dry_run=True)
        if left := self._settle_before(request):
            return left
        deadline = time.monotonic() + patience
        while True:
            try:
                claim = self.store.claim(request)
            except (InFlight, ReaderBusy):
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            if not isinstance(claim, Outcome):
                return self._work(claim)
            if not self._starts_over(request):
                return claim

    def _starts_over(self, request: Request) -> bool:
        """Let go of an answer that holds no more: what was asked for, and done or refused then, can be done now.

        Only of a key that was made: who brings one of his own says himself what is one request.
        """
        if not request.made or request.action == conversions.ACTION:
            return False
        at = self.store.answered_at(request.key)
        if at is None or time.time() - at < FRESH_SECONDS:
            return False
        found = _ACTIONS[request.action](self, request, {}, _no_note, dry_run=True)
        if found.status is not Status.WOULD:
            return False
        self.store.release(request.key, at)
        return True

    def recover(self, *, every: bool = True) -> list[Outcome]:
        """Bring to an end what a crash left, or what was not sure; what fails again stays for the next time.

        Args:
            every: also what was looked at a short while ago; else it is left at growing distances.
        """
        done = []
        for claim in self.store.left_behind(every=every):
            if self._given_up(claim):
                continue
            self._logger.info("%s was left behind: going on with it", claim.request.action)
            try:
                done.append(self._work(claim, again=True))
                self._left.works()
            except Exception as e:  # noqa: BLE001 - be it a fault of ours, the others are done all the same
                self._not_yet(claim, e)
            if self._stopping:
                break
        return done

    def stop(self) -> None:
        """Go on with nothing more of what was left behind."""
        self._stopping = True

    def _settle_before(self, request: Request) -> Outcome | None:
        """Bring to an end what is not sure of this reader, for another wish of the same kind might do it twice."""
        for claim in self.store.left_behind(reader=request.user_id, but=request.key):
            if self._given_up(claim):
                continue
            try:
                found = self._work(claim, again=True)
            except Exception as e:
                if claim.request.action == request.action:
                    raise
                self._not_yet(claim, e)
                continue
            if _is_open(found) and found.action == request.action:
                return found
        return None

    def _given_up(self, claim: Claim) -> bool:
        """Give up what is a day old: nobody waits for it any more, and the reader may want something else by now."""
        if claim.age <= KEPT_SECONDS:
            return False
        if self.tell and claim.request.action in CHANGES:  # Piano may have done it
            self.store.want_push(claim.request.user_id)
        self.store.fail(claim, "given_up")
        self.store.let_go(claim)
        self._logger.warning("%s was left behind a day ago, and is given up", claim.request.action)
        return True

    def _not_yet(self, claim: Claim, problem: Exception) -> None:
        """Tell that an action could not be brought to an end."""
        said = f"{claim.request.action} could not be brought to an end yet: "
        if isinstance(problem, RunStopped):
            self._left.failed(f"{said}{problem}")
        else:
            self._left.failed(f"{said}a fault of ours, {type(problem).__name__}", fault=problem)

    def _work(self, claim: Claim, *, again: bool = False) -> Outcome:
        try:
            return self._worked(claim, again=again)
        finally:
            self.store.let_go(claim)

    def _worked(self, claim: Claim, *, again: bool) -> Outcome:
        def note(**chosen: Any) -> None:  # noqa: ANN401 - JSON
            self.store.note(claim, **chosen)

        try:
            found = _ACTIONS[claim.request.action](self, claim.request, claim.chosen, note, dry_run=False)
        except RunStopped as e:
            if again or claim.chosen:
                self.store.unsure(claim)  # an earlier attempt may have been heard
            else:
                self.store.fail(claim, type(e).__name__)
            raise
        except Exception:  # a fault of ours: the reader shall not be locked out for it
            self.store.unsure(claim)
            raise
        open_ = _is_open(found) and (found.status is Status.UNKNOWN or claim.age < PROCESSED_SECONDS)
        changed = self.tell is not None and found.action in CHANGES and found.well
        changed = changed and not (open_ and claim.chosen)  # nothing new since it was told
        self.store.finish(claim, found, push=changed, unsure=open_)
        if changed and self.tell:
            self.tell(claim.request.user_id, found.details.get("subscription_id"))
        return found


def _is_open(found: Outcome) -> bool:
    """Whether it is still to be looked how an action ends: nobody knows, or Piano took it on and shows nothing yet."""
    return found.status is Status.UNKNOWN or found.reason == upgrade.PROCESSING


def _resubscribe(
    desk: Desk, request: Request, chosen: Mapping[str, Any], note: Note, *, dry_run: bool = False
) -> Outcome:
    wish = resubscribe.Wish(
        request.user_id, chosen.get("subscription_id") or request.params.get("subscription_id") or None
    )
    found = resubscribe.resubscribe(
        desk.piano,
        wish,
        choose=desk.choose,
        before=lambda one: note(subscription_id=one.id),
        dry_run=dry_run,
    )
    return resubscribe.after_all(found) if chosen else found


def _upgrade(desk: Desk, request: Request, chosen: Mapping[str, Any], note: Note, *, dry_run: bool = False) -> Outcome:
    params = request.params
    wish = upgrade.Wish(
        request.user_id,
        params["to_term"],
        params.get("from_term") or None,
        params.get("subscription_id") or None,
    )
    if chosen:
        wish = upgrade.Wish(
            request.user_id,
            chosen["to_term_id"],
            subscription_id=chosen["subscription_id"],
            option_id=chosen.get("option_id"),
            taken_on=bool(chosen.get("taken_on")),
        )

    def noted(way: upgrade.Way, *, taken_on: bool) -> None:
        note(
            subscription_id=way.one.id,
            to_term_id=way.option.to_term_id,
            option_id=way.option.id or None,
            taken_on=taken_on,
        )

    found = upgrade.upgrade(
        desk.piano,
        wish,
        choose=desk.choose,
        before=lambda way: noted(way, taken_on=False),
        heard=lambda way: noted(way, taken_on=True),
        dry_run=dry_run,
        wait=desk.upgrade_wait,
    )
    return upgrade.after_all(found) if chosen else found


def _cancel_upgrade(
    desk: Desk, request: Request, chosen: Mapping[str, Any], note: Note, *, dry_run: bool = False
) -> Outcome:
    found = upgrade_cancel.cancel(
        desk.piano,
        request.user_id,
        chosen.get("subscription_id") or request.params.get("subscription_id") or None,
        before=lambda one: note(subscription_id=one.id),
        dry_run=dry_run,
    )
    return upgrade_cancel.after_all(found) if chosen else found


def _promo_code(
    desk: Desk, request: Request, chosen: Mapping[str, Any], note: Note, *, dry_run: bool = False
) -> Outcome:
    promotion = promotions.named(desk.piano, request.params["promotion"])
    if promotion is None:
        return outcome(pool.ACTION, Status.REFUSED, "promotion_unknown")
    term_id = request.params.get("term_id") or None
    if chosen or desk.store.code_of(promotion.id, request.user_id):  # it is his; but good no longer than the promotion
        found = promotions.holds_not(desk.piano, promotion, term_id)
    else:
        found = promotions.eligibility(
            desk.piano, request.user_id, promotion, term_id, new_customers=desk.new_customers()
        )
    if found and not found.well:
        return outcome(pool.ACTION, found.status, found.reason, **found.details)
    return pool.reserve(
        desk.piano,
        desk.store,
        request.user_id,
        promotion,
        make=desk.make_codes,
        before=lambda code: note(code=code),
        dry_run=dry_run,
    )


def _conversion(
    desk: Desk,
    request: Request,
    chosen: Mapping[str, Any],
    note: Note,
    *,
    dry_run: bool = False,
) -> Outcome:
    if desk.engage is None:
        msg = "target_config: the settings of the target are needed to tell Engage."
        raise ConfigRefused(msg)
    engage = desk.engage()
    tracker = request.params.get("tracker") or engage.tracker
    if not tracker:
        msg = "tracker: is needed. Pulse shows the id of a custom tracker under Settings > Usage Tracking."
        raise ConfigRefused(msg)
    if is_erased(desk.store, request.user_id):  # a ping, and word of the checkout, would name him again
        return outcome(conversions.ACTION, Status.REFUSED, "erased")
    if dry_run:
        return outcome(conversions.ACTION, Status.WOULD, "would_tell", tracker=tracker)
    checkout = chosen.get("checkout") or request.key
    if request.made:  # the same one another day names another checkout
        checkout = f"{request.key}-{uuid.uuid4().hex}"
        note(checkout=checkout)
    return engage.converted(request.user_id, tracker, checkout)


def _no_note(**_chosen: Any) -> None:  # noqa: ANN401 - as the other one
    """Note nothing, of a dry run."""


_ACTIONS: Final[dict[str, Do]] = {
    resubscribe.ACTION: _resubscribe,
    upgrade.ACTION: _upgrade,
    upgrade.CANCEL: _cancel_upgrade,
    pool.ACTION: _promo_code,
    conversions.ACTION: _conversion,
}
"""Actions by name."""
NAMES: Final = tuple(_ACTIONS)
CHANGES: Final = frozenset({resubscribe.ACTION, upgrade.ACTION, upgrade.CANCEL})
"""Those after which Engage has to be told."""
