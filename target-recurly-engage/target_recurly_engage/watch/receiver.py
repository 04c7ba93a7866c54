"""Who gets metrics and alerts: takes a message, or does not."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import requests

SECONDS: Final = 10.0
"""A receiver that takes longer is given up until next time."""


def send(method: str, url: str, **content: Any) -> None:  # noqa: ANN401 - as requests has it
    """Send a message; a redirection is not followed, for on the way a message becomes a question, or a secret leaves.

    Raises:
        requests.RequestException: it was not taken.
    """
    answer = requests.request(method, url, timeout=SECONDS, allow_redirects=False, **content)
    answer.raise_for_status()
    if answer.status_code >= HTTPStatus.MULTIPLE_CHOICES:
        raise requests.HTTPError(response=answer)
