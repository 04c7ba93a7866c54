"""The page at `/`: what Engage now holds, for a person to look at. It only shows; nothing can be changed by it.

Works without JavaScript: links, and forms that GET. `?refresh=5` lets a page load itself again every five seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from piano_engage_sandbox.engage import views
from piano_engage_sandbox.engage.html import Html
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.journal import Journal
from piano_engage_sandbox.service import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAITS_AT_FIRST: Final = 60
"""Traits on the overview; the others have their own page."""
FILES_AT_FIRST: Final = 5
NEWEST: Final = 8
FILES: Final = 200
REQUESTS: Final = 200
MINUTES: Final = 60


def routes() -> list[web.RouteDef]:
    """List the routes of this part. Ids and names may have slashes and line ends in them."""
    return [
        web.get("/", overview),
        web.get("/traits", traits),
        web.get("/traits/{name:(?s:.+)}", trait),
        web.get("/segments", segments),
        web.get("/segments/{name:(?s:.+)}", segment),
        web.get("/users", users),
        web.get("/users/{user_id:(?s:.+)}", user),
        web.get("/files", files),
        web.get("/requests", requests),
    ]


async def overview(request: web.Request) -> web.Response:
    """Show a little of everything."""
    sandbox = request.app[SANDBOX]
    engage = sandbox.part(Engage)
    total = engage.users
    minutes = sandbox.part(Journal).minutes(MINUTES)
    chart = views.chart(minutes)
    return answer(
        request,
        "overview.html",
        app_id=sandbox.app_id,
        tiles=tiles(engage, chart),
        traits=[views.trait_row(trait, total) for trait in views.commonest(engage, TRAITS_AT_FIRST)],
        trait_count=len(engage.traits),
        segments=[views.segment_row(segment, total) for segment in engage.segments],
        files=[views.file_row(file) for file in reversed(engage.files[-FILES_AT_FIRST:])],
        newest=[views.user_row(user) for user in engage.newest(NEWEST)],
        chart=chart,
        counters=views.counters(minutes),
    )


def tiles(engage: Engage, chart: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the figures at the top."""
    values = sum(trait.users for trait in engage.traits.values())
    unseen = sum(not trait.configured for trait in engage.traits.values())
    problems = sum(file.status == "refused" for file in engage.files)
    waiting = sum(file.status in {"waiting", "reading"} for file in engage.files)
    enabled = sum(segment.enabled for segment in engage.segments)
    per_user = f"{values / engage.users:.1f} a user" if engage.users else "nobody yet"
    return [
        tile("Users", engage.users, f"{engage.changes.writes:,} writes"),
        tile("Traits", len(engage.traits), f"{unseen:,} not configured" if unseen else "all configured"),
        tile("Values", values, per_user),
        tile("Segments", len(engage.segments), f"{enabled:,} enabled"),
        tile("Files", len(engage.files), f"{problems:,} refused" if problems else f"{waiting:,} waiting", problems),
        tile("Requests in an hour", chart["requests"], f"{chart['errors']:,} errors", chart["errors"]),
    ]


def tile(name: str, value: int, note: str, bad: int = 0) -> dict[str, Any]:
    """Give one of them; the note is red where something is bad."""
    return {"name": name, "value": value, "note": note, "bad": bad > 0}


async def traits(request: web.Request) -> web.Response:
    """Show all traits."""
    engage = request.app[SANDBOX].part(Engage)
    page = paged(request, len(engage.traits))
    rows = [views.trait_row(trait, engage.users) for trait in views.commonest(engage, page.per, page.offset)]
    return answer(request, "traits.html", traits=rows, page=page)


async def trait(request: web.Request) -> web.Response:
    """Show one trait: how it is configured, and its values with their counts."""
    engage = request.app[SANDBOX].part(Engage)
    found = engage.traits.get(request.match_info["name"])
    if found is None:
        return missing(request, "There is no trait of this name. Names are case-sensitive.")
    page = paged(request, len(found.values))
    row = views.trait_row(found, engage.users)
    return answer(
        request, "trait.html", trait=row, values=views.value_rows(found, page), others=found.others, page=page
    )


async def segments(request: web.Request) -> web.Response:
    """Show all segments."""
    engage = request.app[SANDBOX].part(Engage)
    return answer(request, "segments.html", segments=[views.segment_row(s, engage.users) for s in engage.segments])


async def segment(request: web.Request) -> web.Response:
    """Show one segment: its filters and its members."""
    engage = request.app[SANDBOX].part(Engage)
    found = engage.segment(request.match_info["name"])
    if found is None:
        return missing(request, "There is no segment of this name.")
    page = paged(request, found.size)
    row = views.segment_row(found, engage.users)
    return answer(request, "segment.html", segment=row, users=views.members(engage, found, page), page=page)


async def users(request: web.Request) -> web.Response:
    """Find users by a part of their id or by `trait=value`; without words show all, the first seen first."""
    engage = request.app[SANDBOX].part(Engage)
    words = request.query.get("q", "").strip()
    page = paged(request, engage.search(words, limit=0)[1], **({"q": words} if words else {}))
    ids, _ = engage.search(words, limit=page.per, offset=page.offset)
    return answer(
        request, "users.html", query=words, user_count=engage.users, users=views.user_rows(engage, ids), page=page
    )


async def user(request: web.Request) -> web.Response:
    """Show one user: traits with where they are from, segments, collections, last writes."""
    found = request.app[SANDBOX].part(Engage).user(request.match_info["user_id"])
    if found is None:
        return missing(request, "Engage knows no user of this id: it was never written, or forgotten.")
    return answer(
        request,
        "user.html",
        user=found,
        traits=[views.trait_of_user(found, name) for name in sorted(found.traits)],
        segments=found.segments,
        collections=[views.collection_table(name, records) for name, records in found.collections.items()],
        writes=[views.write_row(write) for write in reversed(found.writes)],
    )


async def files(request: web.Request) -> web.Response:
    """Show the files that were put into the ingest folder, the newest first."""
    engage = request.app[SANDBOX].part(Engage)
    return answer(request, "files.html", files=[views.file_row(file) for file in reversed(engage.files[-FILES:])])


async def requests(request: web.Request) -> web.Response:
    """Show the last requests to either vendor, and how many there were each minute."""
    journal = request.app[SANDBOX].part(Journal)
    minutes = journal.minutes(MINUTES)
    last = [journal.entries[-n] for n in range(1, min(len(journal.entries), REQUESTS) + 1)]
    return answer(
        request,
        "requests.html",
        chart=views.chart(minutes),
        counters=views.counters(minutes),
        figures=[
            tile("Requests", journal.requests, "since the start"),
            tile("In flight", journal.in_flight, f"at most {journal.most_in_flight:,} at once"),
            tile("Most in a second", journal.most_in_a_second, "since the start"),
            tile("Lost answers", journal.lost, "work done, client not told", journal.lost),
            tile("Overlaps", journal.overlaps, "two at once about one user", journal.overlaps),
        ],
        requests=[views.request_row(entry) for entry in last],
    )


def paged(request: web.Request, total: int, **query: str) -> views.Page:
    """Read which page of a list is wanted: `?page=2`."""
    wanted = request.query.get("page", "")
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) <= len("999999999") else 1
    return views.Page(number, total, request.rel_url.raw_path, query)


def missing(request: web.Request, said: str) -> web.Response:
    """Answer that there is no such thing."""
    return answer(request, "missing.html", status=404, said=said)


def answer(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:  # noqa: ANN401 - what templates show
    """Fill a template."""
    return request.app[SANDBOX].part(Html).answer(template, request, status=status, **values)
