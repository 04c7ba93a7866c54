"""`/ingest/property` over a socket: both forms, who is let in, and what the switches make of odd values."""

from __future__ import annotations

import base64
import http.client
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

OK = (200, {"success": True})
NOT_AUTHORIZED = (401, {"success": False, "message": "not_authorized"})
USER_NOT_FOUND = (422, {"success": False, "message": "userId_not_found"})
INVALID = (422, {"success": False, "message": "invalid_property"})
Answer = tuple[int, Any]


def send(
    server: Server,
    target: str,
    *,
    method: str = "POST",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def basic(server: Server, *, user: str | None = None, password: str | None = None) -> dict[str, str]:
    pair = f"{user or server.sandbox.app_id}:{password or server.sandbox.api_key}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def post(
    server: Server,
    properties: object,
    *,
    user_id: object = "reader-1",
    app_id: str | None = None,
    headers: dict[str, str] | None = None,
    query: str = "",
) -> Answer:
    body = {"id": app_id or server.sandbox.app_id, "user_id": user_id, "properties": properties}
    given = {"Content-Type": "application/json", **(basic(server) if headers is None else headers)}
    return send(server, f"/ingest/property{query}", body=json.dumps(body).encode(), headers=given)


def ask(server: Server, query: str, *, method: str = "POST", headers: dict[str, str] | None = None) -> Answer:
    return send(server, f"/ingest/property?id={server.sandbox.app_id}&{query}", method=method, headers=headers)


def traits(server: Server, user_id: str = "reader-1") -> dict[str, Any] | None:
    user = server.sandbox.part(Engage).user(user_id)
    return None if user is None else user.traits


@contextmanager
def switched(**switches: object) -> Iterator[Server]:
    with serving(switches={f"engage.{name}": value for name, value in switches.items()}) as server:
        yield server


@pytest.fixture
def server():
    with serving() as server:
        yield server


def test_the_json_form_writes_traits_at_once(server: Server):
    assert post(server, {"plan": "gold", "visits": 3, "trial": False}) == OK
    assert traits(server) == {"plan": "gold", "visits": 3, "trial": False}


def test_several_calls_add_up_and_the_last_value_stays(server: Server):
    post(server, {"plan": "gold", "visits": 3})
    post(server, {"plan": "silver"})
    assert traits(server) == {"plan": "silver", "visits": 3}


def test_keys_are_case_sensitive(server: Server):
    post(server, {"plan": "gold", "Plan": "silver"})
    assert traits(server) == {"plan": "gold", "Plan": "silver"}


def test_texts_beyond_ascii_arrive_as_they_were(server: Server):
    assert post(server, {"naïve key": "Ωmega ✓ \U0001f600"}, user_id="lezer/é") == OK
    assert traits(server, "lezer/é") == {"naïve key": "Ωmega ✓ \U0001f600"}


def test_the_query_form_writes_texts_without_credentials(server: Server):
    assert ask(server, f"userId=reader-1&properties[{quote('a&b')}]={quote('x=ü y')}&properties[n]=5") == OK
    assert traits(server) == {"a&b": "x=ü y", "n": "5"}


def test_the_query_form_takes_the_user_from_a_header(server: Server):
    assert ask(server, "properties[n]=5", headers={"USER-ID": "reader-1"}) == OK
    assert traits(server) == {"n": "5"}


def test_an_anonymous_user_alone_is_kept_under_the_anonymous_id(server: Server):
    assert ask(server, "properties[n]=5", headers={"anonymous-user-id": "visitor-1"}) == OK
    assert traits(server, "visitor-1") == {"n": "5"}


def test_the_anonymous_id_is_remembered_with_the_user(server: Server):
    ask(server, "userId=reader-1&properties[n]=5", headers={"anonymous-user-id": "visitor-1"})
    user = server.sandbox.part(Engage).user("reader-1")
    assert user is not None
    assert user.anonymous_id == "visitor-1"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {"Authorization": f"Basic {base64.b64encode(b'app:wrong').decode()}"},
    ],
)
def test_wrong_credentials_are_not_authorized(server: Server, headers: dict[str, str]):
    assert post(server, {"plan": "gold"}, headers=headers) == NOT_AUTHORIZED
    assert traits(server) is None


def test_user_and_password_must_both_be_right(server: Server):
    assert post(server, {"plan": "gold"}, headers=basic(server, user="other")) == NOT_AUTHORIZED
    assert post(server, {"plan": "gold"}, headers=basic(server, password="other")) == NOT_AUTHORIZED  # noqa: S106


@pytest.mark.parametrize(
    ("auth", "bare", "with_basic", "with_key", "with_both"),
    [
        ("basic", 401, 200, 401, 200),
        ("key", 401, 401, 200, 200),
        ("either", 401, 200, 200, 200),
        ("both", 401, 401, 401, 200),
        ("none", 200, 200, 200, 200),
    ],
)
def test_what_the_json_form_must_bring(auth: str, bare: int, with_basic: int, with_key: int, with_both: int):
    with switched(auth=auth) as server:
        key = f"?api_key={server.sandbox.api_key}"
        assert post(server, {}, headers={})[0] == bare
        assert post(server, {})[0] == with_basic
        assert post(server, {}, headers={}, query=key)[0] == with_key
        assert post(server, {}, query=key)[0] == with_both


@pytest.mark.parametrize(("auth", "bare", "with_basic"), [("none", 200, 200), ("basic", 401, 200), ("key", 401, 401)])
def test_what_the_query_form_must_bring(auth: str, bare: int, with_basic: int):
    with switched(query_auth=auth) as server:
        assert ask(server, "userId=u&properties[n]=5")[0] == bare
        assert ask(server, "userId=u&properties[n]=5", headers=basic(server))[0] == with_basic


def test_the_name_of_the_key_parameter():
    with switched(auth="key", key_parameter="secret") as server:
        assert post(server, {}, headers={}, query=f"?api_key={server.sandbox.api_key}") == NOT_AUTHORIZED
        assert post(server, {}, headers={}, query=f"?secret={server.sandbox.api_key}") == OK
        assert post(server, {}, headers={}, query="?secret=%FF%00") == NOT_AUTHORIZED


@pytest.mark.parametrize(("verbs", "post_", "get"), [("POST", 200, 405), ("GET", 405, 200), ("both", 200, 200)])
def test_verbs_of_the_query_form(verbs: str, post_: int, get: int):
    with switched(query_verbs=verbs) as server:
        assert ask(server, "userId=u&properties[n]=5")[0] == post_
        assert ask(server, "userId=u&properties[n]=5", method="GET")[0] == get


@pytest.mark.parametrize("user_id", [None, "", 7, ["reader-1"]])
def test_without_a_user_id_the_answer_is_422(server: Server, user_id: object):
    assert post(server, {"plan": "gold"}, user_id=user_id) == USER_NOT_FOUND
    assert server.sandbox.part(Engage).users == 0


def test_without_a_user_id_the_query_form_answers_422(server: Server):
    assert ask(server, "properties[n]=5") == USER_NOT_FOUND
    assert ask(server, "user_id=reader-1&properties[n]=5") == USER_NOT_FOUND


def test_an_unknown_user_is_created(server: Server):
    assert post(server, {"plan": "gold"}) == OK
    assert server.sandbox.part(Engage).users == 1


def test_an_unknown_user_is_refused_by_switch():
    with switched(unknown_user="422") as server:
        assert post(server, {"plan": "gold"}) == USER_NOT_FOUND
        server.sandbox.part(Engage).write("reader-1", {}, source="test")
        assert post(server, {"plan": "gold"}) == OK


def test_another_application_id_is_not_authorized(server: Server):
    assert post(server, {"plan": "gold"}, app_id="other") == NOT_AUTHORIZED


def test_another_application_id_is_ignored_by_switch():
    with switched(wrong_id="ignore") as server:
        assert post(server, {"plan": "gold"}, app_id="other") == OK
        assert traits(server) is None


@pytest.mark.parametrize("switch", ["null", "empty"])
def test_what_null_and_an_empty_text_do(switch: str):
    value = {"null": None, "empty": ""}[switch]
    for choice, answer, kept in (
        ("store", OK, {"plan": value, "n": 1}),
        ("ignore", OK, {"plan": "gold", "n": 1}),
        ("clear", OK, {"n": 1}),
        ("422", INVALID, {"plan": "gold"}),
    ):
        with switched(**{switch: choice}) as server:
            post(server, {"plan": "gold"})
            assert post(server, {"plan": value, "n": 1}) == answer, choice
            assert traits(server) == kept, choice


@pytest.mark.parametrize(
    ("choice", "answer", "kept"),
    [("store", OK, {"tags": '["a", {"b": 1}]'}), ("ignore", OK, {}), ("422", INVALID, None)],
)
def test_what_lists_and_objects_meet(choice: str, answer: Answer, kept: dict[str, Any] | None):
    with switched(nested=choice) as server:
        assert post(server, {"tags": ["a", {"b": 1}]}) == answer
        assert traits(server) == kept


@pytest.mark.parametrize(
    ("choice", "answer", "kept"), [("store", OK, {"a b": 1}), ("ignore", OK, {}), ("422", INVALID, None)]
)
def test_what_keys_with_a_space_meet(choice: str, answer: Answer, kept: dict[str, Any] | None):
    with switched(spaced_keys=choice) as server:
        assert post(server, {"a b": 1}) == answer
        assert traits(server) == kept


def test_bodies_beyond_the_limit_are_refused():
    with switched(max_body=300) as server:
        assert post(server, {"plan": "gold"}) == OK
        assert post(server, {"plan": "g" * 300})[0] == 413
        assert traits(server) == {"plan": "gold"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"properties": []}', b"\xff", b'{"properties": {"a": NaN}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_bad_request(server: Server, body: bytes):
    assert send(server, "/ingest/property", body=body, headers=basic(server))[0] == 400
    assert server.sandbox.part(Engage).users == 0


def test_writes_of_a_user_are_kept_in_their_order(server: Server):
    for n in range(3):
        post(server, {"n": n})
    ask(server, "userId=reader-1&properties[n]=last")
    user = server.sandbox.part(Engage).user("reader-1")
    assert user is not None
    assert [(write.source, write.properties["n"]) for write in user.writes] == [
        ("api", 0), ("api", 1), ("api", 2), ("query", "last"),
    ]  # fmt: skip


def test_a_connection_serves_many_writes(server: Server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for n in range(20):
        body = {"id": server.sandbox.app_id, "user_id": f"u{n}", "properties": {"n": n}}
        connection.request("POST", "/ingest/property", json.dumps(body), basic(server))
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == OK
    connection.close()
    assert server.sandbox.part(Engage).users == 20


# Acknowledged, then lost ---------------------------------------------------------------------------------------------


class Forgetful(Engage):
    """A broken double: it forgets every third write it was told of."""

    def write(self, user_id: str, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self.told = getattr(self, "told", 0) + 1
        if self.told % 3:
            super().write(user_id, *args, **options)


def lost_writes(server: Server, writes: int = 10) -> list[str]:
    """Write to so many users and list those whose acknowledged write is not there."""
    acknowledged = {f"u{n}": n for n in range(writes) if post(server, {"n": n}, user_id=f"u{n}") == OK}
    assert acknowledged
    return [user_id for user_id, n in acknowledged.items() if traits(server, user_id) != {"n": n}]


def test_what_was_acknowledged_is_there(server: Server):
    assert lost_writes(server) == []


def test_the_check_sees_a_store_that_forgets(server: Server):
    server.sandbox._parts[Engage] = Forgetful(server.sandbox)
    assert lost_writes(server) == ["u2", "u5", "u8"]
