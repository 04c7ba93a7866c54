"""How the page is put together: templates, what they may call, and the headers that keep it to itself.

Everything the page shows was written by somebody, so nothing of it is trusted: the templates escape by themselves, and
the answer's Content-Security-Policy lets no script run and nothing be fetched, even if something slipped through. Its
style is in the page and named there by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from piano_engage_sandbox.service import Sandbox

SECTIONS: Final = (
    ("/", "Overview"),
    ("/traits", "Traits"),
    ("/segments", "Segments"),
    ("/users", "Users"),
    ("/files", "Files"),
    ("/requests", "Requests"),
)
"""The places of the page, as its navigation names them; the words are those of Pulse where it has one."""

ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 28 28'%3E%3Crect width='28' height='28' "
    "rx='7' fill='%233d4fd0'/%3E%3Cpath d='M4.5 15h4l3-8 5 14 3-9 1.5 3h2.5' fill='none' stroke='white' "
    "stroke-width='2.2'/%3E%3C/svg%3E"
)
_CONTROLS: Final = {n: 0x2400 + n for n in range(0x20)} | {0x7F: 0x2421}
"""Control characters and the pictures Unicode has for them: what is invisible in a value should be seen here."""


class Html:
    """The templates with their filters; one for a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Read the templates; moments are shown in the time zone of the first application."""
        self._sandbox = sandbox
        self._zone = next(iter(sandbox.piano.values())).zone
        self._templates = Environment(
            loader=PackageLoader("piano_engage_sandbox.engage"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.filters |= {
            "civil": self.civil,
            "iso": iso,
            "count": count,
            "percent": percent,
            "shown": shown,
        }
        style = self._templates.get_template("style.css").render()
        self._templates.globals |= {
            "address": address,
            "icon": ICON,
            "sections": SECTIONS,
            "style": Markup(style),  # noqa: S704 - the package's own file
        }
        self._headers = headers(style)

    def civil(self, moment: float) -> str:
        """Write a moment as local date and time."""
        return self._zone.piano(int(moment))[:19]

    def clock(self, moment: float) -> str:
        """Write a moment as local hour and minute."""
        return self._zone.piano(int(moment))[11:16]

    def answer(self, template: str, request: web.Request, *, status: int = 200, **values: Any) -> web.Response:  # noqa: ANN401 - what templates show
        """Fill a template; what every page shows is added here."""
        now = self._sandbox.now
        text = self._templates.get_template(template).render(
            now=now(), running=now.running, zone=self._zone.name, refresh=refresh(request), path=request.path, **values
        )
        return web.Response(
            body=text.encode(errors="replace"), status=status, content_type="text/html", charset="utf-8",
            headers=self._headers,
        )  # fmt: skip


def headers(style: str) -> dict[str, str]:
    """Give the headers of each answer, for a page with this style."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        "default-src 'none'", f"style-src 'sha256-{digest}'", "img-src data:", "form-action 'self'", "base-uri 'none'",
        "frame-ancestors 'none'",
    )  # fmt: skip
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",  # addresses name users
        "Cache-Control": "no-store",
    }


def address(kind: str, name: str) -> str:
    """Give the address of a user, a trait or a segment; nothing for a name no address can carry.

    Browsers take `.` and `..` for steps between folders however they are written, and an address has no empty part and
    no half of a surrogate pair.
    """
    if name in {"", ".", ".."} or not encodable(name):
        return ""
    return f"/{kind}/{quote(name, safe='')}"


def encodable(text: str) -> bool:
    """Whether a text is Unicode: JSON may bring halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def refresh(request: web.Request) -> int:
    """Read after how many seconds the page is to load itself again: `?refresh=5`; 0 is never."""
    wanted = request.query.get("refresh", "")
    return min(int(wanted), 3600) if re.fullmatch("[0-9]{1,6}", wanted) else 0


def shown(text: str, length: int = 200) -> str:
    """Cut a text to what a person reads, with control characters made visible."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return cut.translate(_CONTROLS)


def count(number: float) -> str:
    """Write a count with its thousands apart."""
    return f"{number:,}"


def percent(share: float) -> str:
    """Write a share of 0 to 1; what is neither none nor all never reads as such."""
    if 0 < share < 0.01:  # noqa: PLR2004 - one in a hundred
        return "<1 %"
    return f"{min(round(share * 100), 99 if share < 1 else 100)} %"


def iso(moment: float) -> str:
    """Write a moment for machines."""
    return datetime.fromtimestamp(int(moment), UTC).isoformat().replace("+00:00", "Z")
