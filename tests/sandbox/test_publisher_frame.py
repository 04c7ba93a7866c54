"""Who may call the Publisher API, in which forms, and what stands around every answer."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from piano_engage_sandbox.piano.envelope import ERRORS, ApiError, Params
from piano_engage_sandbox.piano.publisher import TABLE
from piano_engage_sandbox.service import App
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server

DAILY, WEEKLY = App(aid="ExDaily001", rows=20, token="daily"), App(aid="ExWeekly02", rows=20, token="weekly")  # noqa: S106
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Answered:
    """What came back: HTTP status, headers, and the body with its keys in order."""

    def __init__(self, server: Server, method: str, path: str, headers: dict[str, str], body: str | None) -> None:
        connection = HTTPConnection("127.0.0.1", server.port)
        connection.request(method, f"/api/v3/publisher/{path}", body, headers)
        response = connection.getresponse()
        self.status, self.headers, self.text = response.status, response.headers, response.read().decode()
        connection.close()

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.text))


def get(server: Server, path: str, token: str = "daily", **params: object) -> Answered:  # noqa: S107
    return Answered(server, "GET", f"{path}?{urlencode(params)}", {"api_token": token} if token else {}, None)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(apps=(DAILY, WEEKLY)) as server:
        yield server


TOKEN_FORMS: dict[str, Callable[[Server, str], Answered]] = {
    "header": lambda server, token: Answered(server, "GET", "app/get?aid=ExDaily001", {"api_token": token}, None),
    "header in capitals": lambda server, token: Answered(
        server, "GET", "app/get?aid=ExDaily001", {"API_TOKEN": token}, None
    ),
    "query": lambda server, token: Answered(server, "GET", f"app/get?aid=ExDaily001&api_token={token}", {}, None),
    "query of a POST": lambda server, token: Answered(
        server, "POST", f"app/get?aid=ExDaily001&api_token={token}", {}, ""
    ),
    "form": lambda server, token: Answered(server, "POST", "app/get", FORM, f"aid=ExDaily001&api_token={token}"),
    "header beside a form": lambda server, token: Answered(
        server, "POST", "app/get", {**FORM, "api_token": token}, "aid=ExDaily001"
    ),
}


@pytest.mark.parametrize("form", TOKEN_FORMS)
def test_a_token_is_taken_wherever_it_stands(server: Server, form: str) -> None:
    assert TOKEN_FORMS[form](server, "daily").body["app"]["aid"] == "ExDaily001"


@pytest.mark.parametrize("form", TOKEN_FORMS)
@pytest.mark.parametrize("token", ["", "wrong", "weekly"])
def test_a_token_that_is_not_of_the_application_is_refused(server: Server, form: str, token: str) -> None:
    answered = TOKEN_FORMS[form](server, token)
    assert (answered.status, answered.body["code"], answered.body["message"]) == (200, 2, "Access denied")


@pytest.mark.parametrize("status", [200, 401, 403])
def test_the_http_status_of_a_refused_token_is_a_switch(status: int) -> None:
    with serving(rows=20, switches={"publisher.refused_token_status": status}) as server:
        answered = get(server, "app/get", "wrong", aid=server.sandbox.options.apps[0].aid)
        assert (answered.status, answered.body["code"]) == (status, 2)


@pytest.mark.parametrize("path", TABLE)
def test_no_endpoint_answers_without_a_token(server: Server, path: str) -> None:
    assert get(server, path, "", aid="ExDaily001").body["code"] == 2


def test_an_unknown_aid_is_refused(server: Server) -> None:
    assert get(server, "term/list", aid="Unknown001").body["code"] == 2
    assert get(server, "app/get", aid="Unknown001").body["code"] == 402


def test_a_missing_aid_is_named(server: Server) -> None:
    body = get(server, "term/list").body
    assert body["code"] == 400
    assert body["validation_errors"] == {"aid": "is required"}


@pytest.mark.parametrize("token", ["daily", "weekly"])
def test_the_token_says_which_application_where_aid_is_no_parameter(server: Server, token: str) -> None:
    terms = get(server, "offer/term/list", token, offer_id="OFALLACC0001").body["terms"]
    term = get(server, "term/get", token, term_id=terms[0]["term_id"]).body["term"]
    assert {term["aid"], *(one["aid"] for one in terms)} == {"ExDaily001" if token == "daily" else "ExWeekly02"}  # noqa: S105


def test_keys_come_in_the_order_of_live_answers(server: Server) -> None:
    assert list(get(server, "term/list", aid="ExDaily001").body) == [
        "code", "ts", "limit", "offset", "total", "count", "terms",
    ]  # fmt: skip
    assert list(get(server, "term/count", aid="ExDaily001").body) == ["code", "ts", "data"]


def test_errors_are_http_200_with_a_code_and_a_message(server: Server) -> None:
    answered = get(server, "term/get", term_id="TMN0NE")
    assert (answered.status, answered.body["code"], answered.body["message"]) == (200, 1001, "Term not found")


def test_each_answer_has_a_request_id_of_its_own_and_says_that_it_is_json(server: Server) -> None:
    answers = [get(server, "app/get", token, aid="ExDaily001") for token in ("daily", "daily", "wrong")]
    assert len({answered.headers["x-request-id"] for answered in answers}) == 3
    assert {answered.headers["content-type"] for answered in answers} == {"application/json; charset=utf-8"}


def test_the_time_is_that_of_the_sandbox() -> None:
    with serving(rows=20) as server:
        aid, token = next(iter(server.sandbox.piano)), next(iter(server.sandbox.piano.values())).token
        first = get(server, "app/get", token, aid=aid).body["ts"]
        server.sandbox.now.advance(86_400)
        assert get(server, "app/get", token, aid=aid).body["ts"] == first + 86_400
        assert first == int(server.sandbox.piano[aid].begins)


def test_other_scripts_are_plain_utf_8(server: Server) -> None:
    assert "جريدة المثال" in get(server, "term/list", aid="ExDaily001").text


def test_pages_put_together_are_the_list(server: Server) -> None:
    whole = get(server, "resource/list", aid="ExDaily001", limit=1000).body
    found = []
    for offset in range(0, whole["total"], 7):
        page = get(server, "resource/list", aid="ExDaily001", limit=7, offset=offset).body
        assert (page["limit"], page["offset"], page["total"]) == (7, offset, whole["total"])
        assert page["count"] == len(page["resources"])
        found += page["resources"]
    assert found == whole["resources"]


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (100, 1000)])
def test_a_page_may_be_empty(server: Server, limit: int, offset: int) -> None:
    page = get(server, "term/list", aid="ExDaily001", limit=limit, offset=offset).body
    assert (page["code"], page["count"], page["terms"]) == (0, 0, [])
    assert page["total"] > 0


@pytest.mark.parametrize("name", ["limit", "offset"])
@pytest.mark.parametrize("value", ["-1", "ten", "1.5"])
def test_a_page_that_makes_no_sense_is_refused_by_name(server: Server, name: str, value: str) -> None:
    body = get(server, "term/list", aid="ExDaily001", **{name: value}).body
    assert body["code"] == 400
    assert list(body["validation_errors"]) == [name]
    assert value in body["message"]


@pytest.mark.parametrize(("over", "code", "count"), [("clamp", 0, 5), ("code_400", 400, None)])
def test_the_greatest_page_is_a_switch(over: str, code: int, count: int | None) -> None:
    switches = {"publisher.max_limit": 5, "publisher.over_limit": over}
    with serving(apps=(DAILY,), switches=switches) as server:
        body = get(server, "term/list", aid="ExDaily001", limit=6).body
        assert (body["code"], body.get("count"), body.get("limit")) == (code, count, count)
        assert get(server, "term/list", aid="ExDaily001", limit=5).body["count"] == 5


@pytest.mark.parametrize("code", [0, 200])
def test_the_code_of_calls_that_answer_nothing_is_a_switch(code: int) -> None:
    with serving(apps=(DAILY,), switches={"publisher.success_code": code}) as server:
        where = {"aid": "ExDaily001", "promotion_id": "PRTHREE00003"}
        found = get(server, "promotion/code/list", **where).body
        assert found["code"] == 0
        body = get(server, "promotion/code/delete", **where, promo_code_id=found["data"][0]["promo_code_id"]).body
        assert body == {"code": code, "ts": found["ts"]}


def test_an_empty_parameter_is_none(server: Server) -> None:
    plain = get(server, "term/list", aid="ExDaily001").body
    assert get(server, "term/list", aid="ExDaily001", limit="", q="", rid="", include_type="").body == plain


def test_what_is_no_endpoint_is_not_found(server: Server) -> None:
    assert get(server, "term/invent", aid="ExDaily001").status == 404


PARAMS = Params([("a", "1"), ("a", "2,3"), ("t", "TRUE"), ("f", "False"), ("zero", "0"), ("empty", ""), ("word", "x")])


def test_parameters_are_read_as_what_they_are() -> None:
    assert PARAMS.many("a") == ("1", "2", "3")
    assert (PARAMS.text("a"), PARAMS.text("none", "x"), PARAMS.integer("a"), PARAMS.integer("none", 7)) == (
        "1", "x", 1, 7,
    )  # fmt: skip
    assert [PARAMS.boolean(name, default=True) for name in ("t", "f", "zero", "none")] == [True, False, False, True]
    assert PARAMS.choice("word", ("x", "y")) == "x"
    assert ("word" in PARAMS, "empty" in PARAMS, "none" in PARAMS) == (True, False, False)


@pytest.mark.parametrize(
    "read",
    [
        lambda: PARAMS.required("empty"),
        lambda: PARAMS.integer("word"),
        lambda: PARAMS.integer("zero", least=1),
        lambda: PARAMS.boolean("word"),
        lambda: PARAMS.choice("word", ("y", "z")),
        lambda: PARAMS.many("a", ("1", "2")),
    ],
)
def test_a_wrong_parameter_is_code_400_with_its_name(read: Callable[[], object]) -> None:
    with pytest.raises(ApiError) as raised:
        read()
    assert raised.value.code == 400
    assert next(iter(raised.value.fields)) in raised.value.message


def test_every_error_has_words() -> None:
    assert all(ApiError(code).message == text and text for code, text in ERRORS.items())
