"""What `tap-piano --test` says when Piano refuses: which of token, application and region is wrong, in words.

Piano answers most of it with one and the same "access denied" (fact sheet of the Piano API, 1.5 and 5). So other
questions are asked that only one of them can spoil.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import AccessRefused, AnswerRefused, Outage
from piano_engage_common.transport import Patience, Transport

from tap_piano.answers import NotFound
from tap_piano.client import REGIONS, PianoClient
from tap_piano.settings import client_of, transport_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

NO_TERM: Final = "TM0000000000"
"""Id of a term that no application has."""

SKEW_SECONDS: Final = 60.0
"""Clocks that differ by less are taken for alike."""

QUICK: Final = Patience(timeout=10.0, attempts=2, wait=0.5, total=15.0)


def diagnose(config: Mapping[str, Any], logger: logging.Logger, regions: Mapping[str, str] = REGIONS) -> str:
    """Find out why Piano refuses.

    Args:
        config: complete settings, with token and application.
        logger: for attempts that have to be repeated.
        regions: where else to ask.

    Returns:
        What is wrong and what to do, in a sentence or two.
    """
    transport = transport_of(config, logger)
    client = client_of(config, transport, logger)
    if takes_token(client):
        return _after_the_token(client, config)
    accepting = [
        region
        for region, url in regions.items()
        if url != (config.get("api_url") or regions.get(config["region"])) and _takes_elsewhere(url, config, logger)
    ]
    if accepting:
        return (
            f"Diagnosis: the region is wrong. The token is refused here and accepted in {', '.join(accepting)}: set "
            f"region to {accepting[0]}."
        )
    return (
        "Diagnosis: the token is refused here and in every other region. Copy it anew from Piano's Console "
        "(Manage > API tokens); it belongs to one application."
    )


def _after_the_token(client: PianoClient, config: Mapping[str, Any]) -> str:
    try:
        client.get("term/count")
    except (AccessRefused, AnswerRefused):
        return (
            f"Diagnosis: the token is accepted, but not for the application {config['aid']!r}. Check aid: it is the "
            "application's id in Piano's Console, and the token must be one of that application."
        )
    return (
        "Diagnosis: token, application and region are right for the Publisher API, so the Reports API is what is not "
        "permitted. Ask Piano's support to permit the token to export reports, or set export_path and use files."
    )


def takes_token(client: PianoClient) -> bool:
    """Ask for a term that does not exist: whoever takes the token says just that, and ``aid`` does not matter.

    Raises:
        Outage: Piano did not answer.
    """
    try:
        client.get("term/get", aid=None, term_id=NO_TERM)
    except AccessRefused:
        return False
    except (NotFound, AnswerRefused):
        return True
    return True


def _takes_elsewhere(url: str, config: Mapping[str, Any], logger: logging.Logger) -> bool:
    transport = Transport(patience=QUICK, rate=0, logger=logger)
    client = PianoClient(
        transport, url=url, aid=config["aid"], token=config["api_token"], page_size=config["page_size"], logger=logger
    )
    try:
        return takes_token(client)
    except Outage:
        return False


def skew_words(skew: float | None) -> str | None:
    """Say that Piano's clock and ours differ; None while they are taken for alike."""
    if skew is None or abs(skew) <= SKEW_SECONDS:
        return None
    direction = "ahead of" if skew > 0 else "behind"
    return (
        f"Piano's clock is {abs(skew):,.0f} s {direction} this machine's. Bookmarks go by Piano's, so nothing is lost; "
        "but set this machine's clock (NTP) if it is the one that is wrong."
    )
