"""A finished checkout, told to Engage by a custom tracker (fact sheet of Engage, 5.5).

A ping carries no code and no amount, and is answered with 200 whatever it says. So use one tracker a code or campaign,
and check the ids once by hand in Pulse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import AnswerRefused
from piano_engage_common.transport import label_of

from piano_actions.outcome import Outcome, Status
from piano_actions.words import outcome

if TYPE_CHECKING:
    from piano_engage_common.transport import Answer, Transport

ACTION: Final = "conversion"
PATH: Final = "/ping"


def tell(transport: Transport, *, url: str, app_id: str, user_id: str, tracker: str) -> Outcome:
    """Tell Engage that a reader finished a checkout.

    It is sent again while Engage does not answer, so the same event may be counted twice there; that it is told once
    only otherwise, is for whoever calls to see to.

    Args:
        transport: sends and retries.
        url: of Engage, without the path.
        app_id: Engage's id of the application.
        user_id: the reader.
        tracker: id of the custom tracker.

    Raises:
        Outage: Engage does not answer.
        AnswerRefused: there is no Engage at that address.
    """
    address = f"{url.rstrip('/')}{PATH}"
    label = label_of("GET", address)
    params = {"id": app_id, "type": "custom", "custom_field_id": tracker}
    given = user_id.encode("utf-8", "surrogatepass")  # a text would have to be Latin-1
    headers: dict[str, str | bytes] = {"user-id": given, "rf-app": app_id, "Accept": "application/json"}

    def attempt() -> Answer:
        return transport.once("GET", address, params=params, headers=headers)

    answer = transport.retrying(label, attempt)
    if answer.status >= 300:  # noqa: PLR2004 - HTTP
        msg = f"{label} was answered with {answer.status}: there is no Engage at api_url of the target."
        raise AnswerRefused(msg)
    return outcome(ACTION, Status.DONE, "conversion_told", tracker=tracker)
