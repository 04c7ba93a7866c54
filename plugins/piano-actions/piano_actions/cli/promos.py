"""Commands about promotions and promo codes."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Any

import click
from piano_engage_common.stops import ConfigRefused, InputRefused, exits

from piano_actions import promotions, terms
from piano_actions.arms import CONTROL, arm_of
from piano_actions.checkout import check, linked
from piano_actions.cli.asking import EXIT_REFUSED, LOGGER, as_json, dry_run, json_of, key, key_option, tell, usage, user
from piano_actions.outcome import Status
from piano_actions.store import Request
from piano_actions.words import outcome

if TYPE_CHECKING:
    from tap_piano.client import PianoClient

    from piano_actions.cli.asking import Context
    from piano_actions.outcome import Outcome
    from piano_actions.promotions import Promotion


@click.group()
def promo() -> None:
    """Promotions, promo codes, and the way to the checkout."""


@promo.command("list")
@click.option("--term", help="Only those that are good for this term: its id.")
@as_json
@click.pass_obj
def list_promotions(context: Context, term: str | None, *, as_json: bool) -> None:
    """List the promotions that hold now."""
    with context.piano() as piano:
        if term:
            _known(piano, term)
        found = promotions.valid(piano, term_id=term)
    _show(context, found, as_json=as_json)


@promo.command()
@click.option("--term", required=True, help="For this term: its id.")
@as_json
@click.pass_obj
def pick(context: Context, term: str, *, as_json: bool) -> None:
    """Pick the promotion that takes most off the first price of a term."""
    with context.piano() as piano:
        whole = _known(piano, term)
        found = promotions.best(promotions.valid(piano, term_id=term), whole)
    _show(context, [found] if found else [], as_json=as_json)
    if found is None:
        click.echo("No promotion that holds now takes anything off the first price of this term.", err=True)
        sys.exit(EXIT_REFUSED)


def _known(piano: PianoClient, term: str) -> dict[str, Any]:
    """Give a term.

    Raises:
        InputRefused: Piano does not know it.
    """
    found = terms.term_of(piano, term)
    if found is None:
        msg = f"--term {term}: Piano knows no term of this id; `piano-actions upgrade options --json` shows some."
        raise InputRefused(msg)
    return found


def _show(context: Context, found: list[Promotion], *, as_json: bool) -> None:
    told = [one.as_dict() for one in found]
    if as_json:
        click.echo(json_of(told))
        return
    with exits(LOGGER):
        wording = context.wording
    for one in told:
        until = f", until {wording.last_day(one['valid_until'])}" if one["valid_until"] else ""
        amounts = ", ".join(f"{amount} {currency}" for currency, amount in one["amounts"].items())
        saving = f"{one['percentage']:g} %" if one["discount_type"] == "percentage" else amounts
        code_ = one["code"] or f"{one['prefix']}…"
        click.echo(f"{one['promotion_id']}  {one['name']}: {code_}, {saving}{until}")
    click.echo(f"{len(told):,} promotion(s)")


@promo.command()
@user
@click.option("--promotion", required=True, help="Id, name, code or prefix.")
@click.option("--term", help="For this term: its id.")
@as_json
@click.pass_obj
def eligible(context: Context, user: str, promotion: str, term: str | None, *, as_json: bool) -> None:
    """Say whether a reader may use a promotion."""
    with context.piano() as piano:
        if term:
            _known(piano, term)
        found = promotions.named(piano, promotion)
        told = (
            promotions.eligibility(piano, user, found, term, new_customers=context.new_customers)
            if found
            else outcome(promotions.ELIGIBILITY, Status.REFUSED, "promotion_unknown")
        )
    tell(told, as_json=as_json)


_LINKS = (
    click.option("--offer", help="Offer id, for the link."),
    click.option("--term", help="Term id, for the link."),
    click.option("--snippet", "as_snippet", is_flag=True, help="Print the line for a website action instead of words."),
)


def _links(command: Any) -> Any:  # noqa: ANN401 - as click has it
    for option in reversed(_LINKS):
        command = option(command)
    return command


@promo.command()
@user
@click.option("--promotion", required=True, help="Id, name, code or prefix.")
@_links
@key
@dry_run
@as_json
@click.pass_obj
def code(  # noqa: PLR0913 - one argument an option
    context: Context,
    user: str,
    promotion: str,
    offer: str | None,
    term: str | None,
    key: str | None,
    *,
    as_snippet: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give a reader his code: that of the promotion, or one of its pool, which nobody else gets."""
    _check_template(context, as_snippet=as_snippet)
    given = {"promotion": promotion, "term_id": term}
    params = {name: value for name, value in given.items() if value}
    request = Request("promo_code", user, params, key or uuid.uuid4().hex)
    with usage(), context.desk() as desk:
        found = desk.run(request, dry_run=dry_run)
        found = linked(found, context.settings.checkout_url, user_id=user, offer_id=offer, term_id=term)
    _tell(found, as_snippet=as_snippet, as_json=as_json)


@promo.command()
@user
@click.option("--experiment", required=True, help="Name in the target's setting `experiments`.")
@_links
@as_json
@click.pass_obj
def arm(
    context: Context,
    user: str,
    experiment: str,
    offer: str | None,
    term: str | None,
    *,
    as_snippet: bool,
    as_json: bool,
) -> None:
    """Give the code that an experiment has for a reader, by the target's own hash."""
    _check_template(context, as_snippet=as_snippet)
    with exits(LOGGER):
        drawn = arm_of(context.contract, experiment, user)
        if drawn in {None, CONTROL}:
            found = outcome("promo_arm", Status.REFUSED, "control_group", experiment=experiment, arm=drawn)
        else:
            found = outcome("promo_arm", Status.DONE, "code_of_arm", experiment=experiment, arm=drawn, code=drawn)
        found = linked(found, context.settings.checkout_url, user_id=user, offer_id=offer, term_id=term)
    _tell(found, as_snippet=as_snippet, as_json=as_json)


def _check_template(context: Context, *, as_snippet: bool) -> None:
    """Look at checkout_url before a code is taken out of a pool for nothing."""
    with exits(LOGGER):
        template = context.settings.checkout_url
        if template:
            check(template)
        elif as_snippet:
            msg = (
                "checkout_url: is needed for --snippet, such as https://example.com/buy?offer={offer_id}&promo={code}."
            )
            raise ConfigRefused(msg)


def _tell(found: Outcome, *, as_snippet: bool, as_json: bool) -> None:
    if not as_snippet or not found.well:
        tell(found, as_json=as_json)
    click.echo(found.details["snippet"])


@promo.command()
@user
@click.option("--tracker", help="Id of the custom tracker, if not the one of the settings.")
@key_option("Names the purchase, such as its conversion id: it is told once.")
@dry_run
@as_json
@click.pass_obj
def converted(
    context: Context, user: str, tracker: str | None, key: str | None, *, dry_run: bool, as_json: bool
) -> None:
    """Tell Engage that a reader has finished a checkout."""
    params = {"tracker": tracker} if tracker else {}
    request = Request("conversion", user, params, key or uuid.uuid4().hex)
    with usage(), context.desk() as desk:
        found = desk.run(request, dry_run=dry_run)
    tell(found, as_json=as_json)


COMMANDS = (promo,)
