"""user/get, list, search and user/access, over HTTP."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server
    from piano_engage_sandbox.world import World


def ask(server: Server, path: str, **params: object) -> dict[str, Any]:
    app = next(iter(server.sandbox.piano.values()))
    form = urlencode({"aid": app.aid, "api_token": app.token, **params}, doseq=True).encode()
    with urlopen(f"{server.url}/api/v3/publisher/{path}", form, timeout=20) as answer:  # noqa: S310 - ours
        found: dict[str, Any] = json.load(answer)
    return found


def found(server: Server, path: str, **params: object) -> set[str]:
    return {user["uid"] for user in ask(server, path, limit=1000, **params)["users"]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A sandbox that nobody changes."""
    with serving(rows=300) as made:
        yield made


@pytest.fixture(scope="module")
def world(server: Server) -> World:
    return next(iter(server.sandbox.piano.values())).world


def test_a_user_is_found_by_his_uid(server: Server, world: World) -> None:
    uid = next(iter(world.users()))
    user = ask(server, "user/get", uid=uid)["user"]
    assert (user["uid"], user["email"]) == (uid, world.person_of(uid)[1].email)  # type: ignore[index]
    assert user["image1"] is None
    assert user["last_visit"] <= world.now


def test_nobody_is_2004(server: Server, world: World) -> None:
    assert ask(server, "user/get", uid="nobody")["code"] == 2004
    assert ask(server, "user/get", uid=next(iter(world.users())), disabled="true")["code"] == 2004
    assert ask(server, "user/access/list", uid="nobody")["code"] == 2004


def test_custom_fields_are_for_endpoints_about_users(server: Server) -> None:
    users = {user["uid"]: user for user in ask(server, "user/list", limit=1000)["users"]}
    with_fields = next(user for user in users.values() if user["custom_fields"])
    (field,) = with_fields["custom_fields"]
    assert {"fieldName", "value", "dataType", "created"} <= set(field)
    assert datetime.fromisoformat(field["created"]).utcoffset() is not None
    (item, *_) = ask(server, "subscription/list", uid=with_fields["uid"])["subscriptions"]
    assert item["user"]["custom_fields"] == []


def test_all_users_are_listed_page_by_page(server: Server, world: World) -> None:
    first = ask(server, "user/list")
    second = ask(server, "user/list", offset=100)
    assert (first["total"], first["limit"], first["count"]) == (len(world.users()), 100, 100)
    assert not {user["uid"] for user in first["users"]} & {user["uid"] for user in second["users"]}
    assert found(server, "user/list") == set(world.users())


@pytest.mark.parametrize(
    ("params", "wrong"), [({"limit": 1001}, "limit"), ({"offset": 10_001}, "offset"), ({"limit": "all"}, "limit")]
)
@pytest.mark.parametrize("path", ["user/list", "user/search"])
def test_pages_have_limits(server: Server, path: str, params: dict[str, object], wrong: str) -> None:
    body = ask(server, path, **params)
    assert (body["code"], set(body["validation_errors"])) == (400, {wrong})
    assert ask(server, path, limit=1000, offset=10_000)["users"] == []


def test_a_text_is_sought_in_uid_name_and_address(server: Server, world: World) -> None:
    uid = next(iter(world.users()))
    known = world.person_of(uid)
    assert known
    who = known[1]
    for text in (uid, who.email.upper(), f"{who.first} {who.last}"):
        assert uid in found(server, "user/list", q=text)
        assert uid in found(server, "user/search", q=text)
    assert found(server, "user/list", q="nobody at all") == set()


def test_search_finds_by_what_users_have(server: Server, world: World) -> None:
    active = {uid for uid in world.users() if any(e.state.status == "Active" for e in world.of_user(uid))}
    assert found(server, "user/search", has_active_subscription="true") == active
    assert found(server, "user/search", has_active_subscription="false") == set(world.users()) - active
    readers = {
        uid
        for uid in world.users()
        if any(e.state.live and e.fate.term.resource.rid == "RPREM77" for e in world.of_user(uid))
    }
    assert readers
    assert found(server, "user/search", access_to_resources="RPREM77") == readers
    converted = {uid for uid in world.users() if any(e.fate.term.term_id == "TMDAYPASS010" for e in world.of_user(uid))}
    assert found(server, "user/search", converted_terms=["TMDAYPASS010"]) == converted


def test_access_follows_subscriptions(server: Server, world: World) -> None:
    for uid in list(world.users())[:40]:
        live = [entry for entry in world.of_user(uid) if entry.state.live and entry.fate.start <= world.now]
        accesses = ask(server, "user/access/list", uid=uid)["accesses"]
        assert [access["resource"]["rid"] for access in accesses] == [entry.fate.term.resource.rid for entry in live]
        assert [access.get("expire_date") for access in accesses] == [entry.state.access_until for entry in live]
        for rid in ("RDIG1T4", "RPREM77"):
            access = ask(server, "user/access/check", uid=uid, rid=rid)["access"]
            assert access["granted"] == any(entry.fate.term.resource.rid == rid for entry in live)


def test_access_to_what_there_is_not_is_403(server: Server, world: World) -> None:
    assert ask(server, "user/access/check", uid=next(iter(world.users())), rid="RN0B0DY")["code"] == 403
