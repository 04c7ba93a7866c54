"""The page as HTML over HTTP: what it shows, that it is well made, and that nothing it shows can act."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from piano_engage_sandbox.engage import html, views
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.engage.users import IngestedFile
from piano_engage_sandbox.journal import Entry, Part
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

HOSTILE = "<script>alert(1)</script>\"'&amp;{{ 7 * 7 }}</style></title>"
ODD_IDS = ("a/b", "a b?c#d", "ümläut", "line\nend", "%2F", "+", "..", ".", "x" * 300, HOSTILE)
VOID = frozenset({"meta", "link", "input", "br", "rect", "line", "path"})
SEGMENTS = [
    {"name": "Grace", "description": "payment failed", "filters": [{"trait": "stage", "values": ["grace"]}]},
    {"name": "Not asked yet", "enabled": False, "filters": [{"trait": "visits", "from": 3}]},
    {"name": f"S/{HOSTILE}", "filters": []},
]


class Document(HTMLParser):
    """A page as its elements, with what a reader of the source would complain about."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str], str]]]] = []
        self.text = ""
        self.problems: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self.tables[-1][-1].append((tag, given, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"th", "td"} & set(self._open):
            tag, given, text = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (tag, given, f"{text} {data}".strip())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Give the attributes of all elements of a kind."""
        return [given for name, given in self.elements if name == tag]

    def links(self) -> list[str]:
        """Give where its links lead."""
        return [given["href"] for given in self.all("a")]

    def row(self, name: str) -> list[str]:
        """Give the texts of the first row that begins with this."""
        rows = [[" ".join(text.split()) for _, _, text in row] for table in self.tables for row in table if row]
        return next((row for row in rows if row[0] == name), [])


def get(server: Server, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def page(server: Server, path: str) -> Document:
    answer, source = get(server, path)
    assert answer.status == 200, path
    return Document(source)


def write(server: Server, user: str, properties: dict[str, Any], *, key: str | None = None) -> int:
    """Write as a client does; gives the status."""
    box = server.sandbox
    secret = base64.b64encode(f"{box.app_id}:{key or box.api_key}".encode()).decode()
    body = json.dumps({"id": box.app_id, "user_id": user, "properties": properties})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {secret}"}
        connection.request("POST", "/ingest/property", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        served.sandbox.part(Engage).define_segments(SEGMENTS)
        yield served


def fill(server: Server) -> None:
    """Write a bit of everything, ugly things included."""
    engage = server.sandbox.part(Engage)
    assert write(server, "reader-1", {"stage": "grace", "visits": 3, "ends": "2026-04-01", "renew": True}) == 200
    for number, user in enumerate(ODD_IDS):
        write(
            server, user, {"stage": "trial", "visits": number, HOSTILE: HOSTILE, "empty": "", "control": "a\x00b\x1b"}
        )
    assert write(server, "nobody", {"stage": "x"}, key="wrong") == 401
    engage.set_collection("reader-1", "subscriptions", [{"plan": "gold"}, {"plan": HOSTILE, "amount": 3}])
    now = server.sandbox.now()
    engage.files += [
        IngestedFile("acme/ingest/good.csv", 12_345, now, "done", now + 2, 7, 6, [f"Spaced {HOSTILE}"], [], 1),
        IngestedFile(f"acme/ingest/{HOSTILE}.csv", 1, now, "refused", now, 0, 0, [], [f"line 1: {HOSTILE}"] * 30),
        IngestedFile("acme/ingest/new.csv", 1, now),
    ]


@pytest.fixture(scope="module")
def full() -> Iterator[Server]:
    """A server with a bit of everything, for those who only look."""
    with serving() as served:
        served.sandbox.part(Engage).define_segments(SEGMENTS)
        fill(served)
        yield served


def everywhere(server: Server) -> list[str]:
    """Follow all links of the page from `/` on; gives each address once."""
    seen: list[str] = []
    ahead = ["/"]
    while ahead:
        address = ahead.pop()
        if address not in seen:
            seen.append(address)
            ahead += [link.partition("#")[0] or address for link in page(server, address).links()]
    return seen


def test_all_links_answer_and_every_page_is_well_made(full: Server) -> None:
    addresses = everywhere(full)
    kinds = Counter(urlsplit(address).path.split("/")[1] for address in addresses)
    assert set(kinds) == {"", "traits", "segments", "users", "files", "requests"}
    assert kinds["users"] > len(ODD_IDS), "all users but those no address can carry, the list, and searches"
    for address in addresses:
        document = page(full, address)
        assert document.problems == [], address
        check_structure(document, address)


def check_structure(document: Document, address: str) -> None:
    ids = Counter(given["id"] for _, given in document.elements if "id" in given)
    assert [name for name, count in ids.items() if count > 1] == [], address
    assert document.all("html")[0]["lang"] == "en"
    assert all(len(document.all(tag)) == 1 for tag in ("title", "h1", "main")), address
    named = {given["for"] for given in document.all("label")}
    assert all(given["id"] in named for given in document.all("input")), address
    for _, given in document.elements:
        for reference in (given.get("aria-labelledby"), given.get("aria-describedby")):
            assert reference is None or reference in ids, (address, reference)
    for table in document.tables:
        head = table[0]
        assert head, address
        assert all(tag == "th" and given.get("scope") == "col" and text for tag, given, text in head), address
        assert all(given.get("scope") == "row" for row in table[1:] for tag, given, _ in row if tag == "th"), address
        assert all(len(row) == len(head) for row in table), address


def test_what_was_written_cannot_act(full: Server) -> None:
    for address in everywhere(full):
        _, source = get(full, address)
        document = Document(source)
        assert document.all("script") == [], address
        assert "<script" not in source, address
        assert len(document.all("style")) == 1
        assert [
            name for _, given in document.elements for name in given if name.startswith("on") or name == "style"
        ] == []
        assert "&amp;amp;49" not in source, "templates are not made of what was written"


def test_the_escaping_test_sees_what_is_not_escaped() -> None:
    document = Document(f"<p>{HOSTILE}</p>")
    assert document.all("script")
    assert document.problems


@pytest.mark.parametrize(
    "source",
    [
        '<p id="a"></p><p id="a"></p>',
        "<table><tr><td>x</td></tr></table>",
        "<table><tr><th>x</th></tr></table>",
        '<table><tr><th scope="col">x</th></tr><tr><td>1</td><td>2</td></tr></table>',
        '<input id="x">',
        '<section aria-labelledby="nothing"></section>',
        "<h1>again</h1>",
    ],
)
def test_the_structure_test_sees_what_is_badly_made(source: str) -> None:
    frame = '<html lang="en"><title>x</title><main><h1>x</h1>{}</main></html>'
    check_structure(Document(frame.format("")), "good")
    with pytest.raises(AssertionError):
        check_structure(Document(frame.format(source)), "bad")


@pytest.mark.parametrize("user", [user for user in ODD_IDS if user.strip(".")])
def test_odd_ids_have_a_page_of_their_own(full: Server, user: str) -> None:
    shown = html.shown(user)
    document = page(full, f"/users/{quote(user, safe='')}")
    assert shown in document.text
    assert f"/users/{quote(user, safe='')}" in page(full, "/users").links()


def test_ids_that_no_address_can_carry_are_shown_without_a_link(full: Server) -> None:
    document = page(full, "/users")
    assert document.row("..")
    assert not [link for link in document.links() if link.rstrip(".") == "/users/"]


def test_half_a_surrogate_pair_breaks_nothing(server: Server) -> None:
    assert write(server, "half \ud800", {"odd \udfff": "value \ud83d"}) in {200, 422}
    server.sandbox.part(Engage).write("half \udc00", {"odd \udfff": "value \ud83d"}, source="csv")
    for address in everywhere(server):
        assert page(server, address).problems == []


def test_headers_keep_the_page_to_itself(full: Server) -> None:
    answer, source = get(full, "/")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    style = re.search(r"<style>(.*)</style>", source, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'", "style-src": f"'sha256-{digest}'", "img-src": "data:", "form-action": "'self'",
        "base-uri": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


def test_nothing_is_named_that_lies_elsewhere(full: Server) -> None:
    for address in everywhere(full):
        _, source = get(full, address)
        for _, given in Document(source).elements:
            for name in ("href", "src", "action"):
                assert given.get(name, "/").startswith(("/", "#", "data:")), address
                assert not given.get(name, "/").startswith("//"), address
        style = source.partition("<style>")[2].partition("</style>")[0]
        assert not re.search(r"url\(|@import|//", style)


def test_the_page_only_shows(full: Server) -> None:
    for path in ("/", "/users", "/traits/stage", "/segments/Grace", "/files", "/requests"):
        assert get(full, path, "POST")[0].status == 405
        assert get(full, path, "DELETE")[0].status == 405
        assert get(full, path, "HEAD")[0].status == 200
    assert {given["method"] for given in page(full, "/users").all("form")} == {"get"}


def test_an_empty_engage_says_so(server: Server) -> None:
    server.sandbox.part(Engage).define_segments([])
    overview = page(server, "/")
    assert "None yet." in overview.text
    assert "No file was uploaded yet." in overview.text
    assert "Nobody was written yet." in overview.text
    for address in everywhere(server):
        assert page(server, address).problems == []


def test_the_overview_shows_what_was_written(full: Server) -> None:
    overview = page(full, "/")
    users = len(ODD_IDS) + 1
    assert full.sandbox.app_id in overview.text
    assert overview.row("stage") == ["stage", "string", "multi-select", str(users), "trial 91 % grace 9 %"]
    assert overview.row("renew") == ["renew", "boolean", "multi-select", "1", "true 100 %"]
    assert overview.row("ends") == ["ends", "date", "date range", "1", "2026-04-01 100 %"]
    assert overview.row("visits")[:4] == ["visits", "number", "slider", str(users)]
    assert overview.row("Grace stage include grace") == ["Grace stage include grace", "1"]
    assert overview.row("acme/ingest/new.csv")[1] == "waiting"
    assert "2026-03-28 06:00:00" in overview.text
    assert "stands still" in overview.text
    assert full.sandbox.api_key not in overview.text


def test_tiles_count(full: Server) -> None:
    _, source = get(full, "/")
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", source))
    engage = full.sandbox.part(Engage)
    assert tiles["Users"] == str(len(ODD_IDS) + 1)
    assert tiles["Traits"] == str(len(engage.traits))
    assert tiles["Values"] == str(sum(len(user.traits) for user in engage.each_user()))
    assert tiles["Files"] == "3"


def test_a_trait_configured_by_hand_shows_it(server: Server) -> None:
    write(server, "reader-1", {"visits": 3, "code": 7})
    server.sandbox.switches.set("engage.configured", "by_hand")
    server.sandbox.part(Engage).configure("code", "string", "multi_select", description="of the last campaign")
    overview = page(server, "/")
    assert overview.row("visits")[2] == "not configured"
    assert overview.row("code")[1:3] == ["number set to string", "multi-select"]
    assert "1 not configured" in overview.text
    assert "of the last campaign" in page(server, "/traits/code").text
    assert "no segment sees it" in page(server, "/traits/visits").text


def test_a_user_has_values_types_sources_and_writes(full: Server) -> None:
    user = page(full, "/users/reader-1")
    assert user.row("ends") == ["ends", "2026-04-01", "date", "API", "2026-03-28 06:00:00"]
    assert user.row("renew")[1:3] == ["true", "boolean"]
    assert "/segments/Grace" in user.links()
    assert "stage = grace, visits = 3, ends = 2026-04-01, renew = true" in user.text
    assert user.row("gold") == ["gold", ""]
    assert "empty text" in page(full, "/users/a%2Fb").text


def test_control_characters_can_be_seen(full: Server) -> None:
    assert "a␀b␛" in page(full, "/users/a%2Fb").text


def test_a_trait_has_its_values_by_number(full: Server) -> None:
    trait = page(full, "/traits/stage")
    assert [row[0][2] for row in trait.tables[0][1:]] == ["trial", "grace"]
    assert "/users?q=stage%3Dgrace" in trait.links()
    found = page(full, "/users?q=stage%3Dgrace")
    assert "1 found" in found.text
    assert found.row("reader-1")


def test_a_segment_has_its_filters_and_members(full: Server) -> None:
    segment = page(full, "/segments/Grace")
    assert "stage include grace" in segment.text
    assert "payment failed" in segment.text
    assert segment.row("reader-1")
    assert "disabled" in page(full, "/segments/Not%20asked%20yet").text


def test_files_have_their_status_and_errors(full: Server) -> None:
    files = page(full, "/files")
    good = files.row(f"acme/ingest/good.csv column not processed: Spaced {HOSTILE} 1 rows not processed")
    assert good[1:] == ["done", "2026-03-28 06:00:00", "2026-03-28 06:00:02", "12,345", "7", "6"]
    assert "and 10 more errors" in files.text
    assert files.row("acme/ingest/new.csv")[3] == "not yet"


def test_requests_are_listed_and_masked(server: Server) -> None:
    token = server.sandbox.piano["ExAmPlE4a1"].token
    get(server, f"/api/v3/publisher/term/list?aid=ExAmPlE4a1&api_token={token}")
    write(server, "reader-1", {"a": 1})
    write(server, "reader-1", {"a": 1}, key="wrong")
    answer, source = get(server, "/requests")
    assert answer.status == 200
    assert token not in source
    assert "api_token=***" in Document(source).text
    requests = Document(source)
    assert requests.row("Engage")[2:] == ["2", "1"]
    last = [row[3][2] for row in requests.tables[-1][1:]]
    assert last[:2] == ["401", "200"]


def test_the_page_does_not_count_itself(server: Server) -> None:
    before = page(server, "/requests").row("Engage")
    page(server, "/")
    assert page(server, "/requests").row("Engage") == before


def test_lists_have_pages(server: Server) -> None:
    engage = server.sandbox.part(Engage)
    for number in range(120):
        engage.write(f"reader-{number:03}", {"stage": "grace", f"trait-{number:03}": number}, source="api")
    for path, first, last in (
        ("/users", "reader-000", "reader-119"),
        ("/users?q=reader-", "reader-000", "reader-119"),
        ("/segments/Grace", "reader-000", "reader-119"),
        ("/traits", "stage", "trait-119"),
    ):
        address = path
        assert page(server, path).row(first)
        for number in (2, 3):
            links = page(server, address).links()
            address = next(link for link in links if link.endswith(f"page={number}"))
        assert page(server, address).row(last)
        assert not any(link.endswith("page=4") for link in page(server, address).links())
        more = "&" if "?" in path else "?"
        assert page(server, f"{path}{more}page=99999").row(last), "beyond the end is the end"
        for odd in ("-1", "x", "", "9" * 50, "²"):
            assert page(server, f"{path}{more}page={quote(odd)}").row(first)
    assert "the first 60 of 121" in page(server, "/").text


@pytest.mark.parametrize("path", ["/users/nobody", "/traits/nothing", "/segments/none"])
def test_what_is_not_there_is_said_so(full: Server, path: str) -> None:
    answer, source = get(full, path)
    assert answer.status == 404
    assert Document(source).problems == []


def test_a_search_that_finds_nobody_says_so(full: Server) -> None:
    document = page(full, f"/users?q={quote(HOSTILE + 'x')}")
    assert "0 found" in document.text
    assert "Nobody matches" in document.text
    assert document.all("input")[1]["value"] == HOSTILE + "x"


@pytest.mark.parametrize(("query", "seconds"), [("?refresh=5", "5"), ("?refresh=99999", "3600")])
def test_refreshes_by_itself_where_asked_for(full: Server, query: str, seconds: str) -> None:
    metas = [given for given in page(full, f"/{query}").all("meta") if given.get("http-equiv") == "refresh"]
    assert metas == [{"http-equiv": "refresh", "content": seconds}]


@pytest.mark.parametrize("query", ["", "?refresh=0", "?refresh=-1", "?refresh=5;url=http://elsewhere", "?refresh=²"])
def test_does_not_refresh_otherwise(full: Server, query: str) -> None:
    assert not [given for given in page(full, f"/{quote(query, safe='?=&')}").all("meta") if "http-equiv" in given]


def test_shares_never_read_as_all_or_nothing_unless_they_are() -> None:
    said = {share: html.percent(share) for share in (0, 0.0001, 0.01, 0.994, 0.9999, 1)}
    assert list(said.values()) == ["0 %", "<1 %", "1 %", "99 %", "99 %", "100 %"]


def test_the_smallest_bar_can_be_seen_and_the_highest_fits() -> None:
    chart = views.chart([
        {"parts": {"engage": {"requests": 10_000, "errors": 1}, "publisher": {"requests": 0, "errors": 0}}},
        {"parts": {"reports": {"requests": 1, "errors": 0}}},
        {"parts": {}},
    ])  # fmt: skip
    assert [(bar["all"], bar["errors"]) for bar in chart["bars"]] == [(98.0, 2.0), (2.0, 0.0), (0.0, 0.0)]
    assert (chart["requests"], chart["errors"], chart["peak"]) == (10_001, 1, 10_000)


def test_a_lost_answer_and_one_in_the_air_are_told_apart() -> None:
    lost = Entry(1, 0.0, Part.ENGAGE, "POST", "/ingest/property", 1, status=200, worked=True, ms=1.0)
    flying = Entry(2, 0.0, Part.PUBLISHER, "GET", "/api/v3/publisher/term/list", 1)
    assert (views.request_row(lost)["tone"], views.request_row(lost)["note"]) == ("bad", "answer lost")
    assert (views.request_row(flying)["tone"], views.request_row(flying)["note"]) == ("wait", "in the air")
