"""Endpoints about users and what they may read: user/get, list, search, and user/access (sheet of Piano, 3.8)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.catalogue import ALL_RESOURCES
from piano_engage_sandbox.piano import shapes
from piano_engage_sandbox.piano.envelope import Answer, ApiError, paged, wrong
from piano_engage_sandbox.piano.subscription_shapes import View, has_access, present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from piano_engage_sandbox.catalogue import Resource
    from piano_engage_sandbox.people import Person
    from piano_engage_sandbox.piano.envelope import Call, Params
    from piano_engage_sandbox.world import Entry

UNKNOWN_USER: Final = 2004
MOST_USERS: Final = 1000
"""Largest `limit` of user/list."""
LAST_OFFSET: Final = 10_000
"""Last `offset` user/list takes (sheet, 1.9: unusable from 10,001)."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One user: his person and the subscriptions he has."""

    person: Person
    entries: Sequence[Entry]


def get_user(call: Call) -> Answer:
    """user/get: 2004 for a uid nobody knows. Nobody is disabled here."""
    who = _known(call)
    if call.params.boolean("disabled"):
        raise ApiError(UNKNOWN_USER)
    return Answer("user", _full(call, who.person))


def list_users(call: Call) -> Answer:
    """user/list: at most 1000 a page, and none from offset 10,001 on; that both meet 400 is our guess."""
    _check_page(call.params)
    text = call.params.text("q").casefold()
    readers = [] if call.params.boolean("disabled") else list(_readers(call))
    found = [reader for reader in readers if _mentioned(reader.person, text)] if text else readers
    return _page(call, found)


def search_users(call: Call) -> Answer:
    """user/search: the main ones of its some sixty filters; those it does not know it ignores."""
    _check_page(call.params)
    tests = [make(call) for name, make in _SEARCHES.items() if name in call.params]
    return _page(call, [reader for reader in _readers(call) if all(test(reader) for test in tests)])


def list_access(call: Call) -> Answer:
    """user/access/list: what a user may read now, an access for each subscription that gives one."""
    reader = _known(call)
    entries = [entry for entry in reader.entries if has_access(entry.state, call.now)]
    return paged(call, entries, key="accesses", shape=lambda entry: access(View(call, entry)))


def check_access(call: Call) -> Answer:
    """user/access/check: whether a user may read a resource; 403 for one nobody knows."""
    rid = call.params.required("rid")
    resource = next((one for one in ALL_RESOURCES if one.rid == rid), None)
    reader = _known(call)
    if resource is None:
        raise ApiError(403)
    for entry in reader.entries:
        if entry.fate.term.resource.rid == rid and has_access(entry.state, call.now):
            return Answer("access", access(View(call, entry)))
    return Answer("access", _no_access(call, resource, reader.person))


def access(view: View) -> dict[str, Any]:
    """Write the `Access` a subscription gives, or gave."""
    state = view.state
    granted = has_access(state, view.call.now)
    return present(
        {
            "access_id": view.access_id,
            "granted": granted,
            "resource": shapes.resource(view.call, view.term.resource),
            "user": shapes.user(view.call, view.person),
            "expire_date": state.access_until,
            "start_date": state.fate.start,
            "can_revoke_access": granted and view.term.type == "Access Granted",
        }
    )


ENDPOINTS: Final[dict[str, Callable[[Call], Answer]]] = {
    "user/get": get_user,
    "user/list": list_users,
    "user/search": search_users,
    "user/access/list": list_access,
    "user/access/check": check_access,
}
"""Endpoints by their path."""


def _known(call: Call) -> Reader:
    uid = call.params.required("uid")
    found = call.application.world.person_of(uid)
    if found is None:
        raise ApiError(UNKNOWN_USER)
    return Reader(found[1], call.application.world.of_user(uid))


def _readers(call: Call) -> Iterable[Reader]:
    world = call.application.world
    for uid in world.users():
        known = world.person_of(uid)
        if known is not None:
            yield Reader(known[1], world.of_user(uid))


def _page(call: Call, readers: list[Reader]) -> Answer:
    return paged(call, readers, key="users", shape=lambda reader: _full(call, reader.person))


def _full(call: Call, who: Person) -> dict[str, Any]:
    """Write a `User` with his custom fields, which only endpoints about users show (sheet, 1.9)."""
    shape = shapes.user(call, who)
    if who.phase % 3 == 0:
        shape["custom_fields"] = [
            {
                "fieldName": "favourite_section",
                "fieldTitle": "Favourite section",
                "value": _SECTIONS[who.phase % len(_SECTIONS)],
                "dataType": "TEXT",
                "created": datetime.fromtimestamp(shape["create_date"], UTC).isoformat(timespec="milliseconds"),
            }
        ]
    return shape


_SECTIONS: Final = ("politics", "sport", "culture", "local")


def _check_page(params: Params) -> None:
    if params.integer("limit") > MOST_USERS:
        raise wrong("limit", f"is more than {MOST_USERS}")
    if params.integer("offset") > LAST_OFFSET:
        raise wrong("offset", f"is more than {LAST_OFFSET}")


def _mentioned(who: Person, text: str) -> bool:
    return any(text in part.casefold() for part in (who.uid, who.email, f"{who.first} {who.last}"))


def _no_access(call: Call, resource: Resource, who: Person) -> dict[str, Any]:
    return {"granted": False, "resource": shapes.resource(call, resource), "user": shapes.user(call, who)}


def _uid(call: Call) -> Callable[[Reader], bool]:
    uid = call.params.text("uid")
    return lambda reader: reader.person.uid == uid


def _email(call: Call) -> Callable[[Reader], bool]:
    text = call.params.text("email").casefold()
    return lambda reader: text in reader.person.email.casefold()


def _name(call: Call) -> Callable[[Reader], bool]:
    text = call.params.text("name").casefold()
    return lambda reader: text in f"{reader.person.first} {reader.person.last}".casefold()


def _any_text(call: Call) -> Callable[[Reader], bool]:
    text = call.params.text("q").casefold()
    return lambda reader: _mentioned(reader.person, text)


def _subscribes(call: Call) -> Callable[[Reader], bool]:
    wanted = call.params.boolean("has_active_subscription")
    return lambda reader: any(entry.state.status == "Active" for entry in reader.entries) == wanted


def _reads(call: Call) -> Callable[[Reader], bool]:
    wanted = call.params.boolean("has_access")
    return lambda reader: any(has_access(entry.state, call.now) for entry in reader.entries) == wanted


def _reads_one_of(call: Call) -> Callable[[Reader], bool]:
    rids = call.params.many("access_to_resources")
    return lambda reader: any(
        e.fate.term.resource.rid in rids and has_access(e.state, call.now) for e in reader.entries
    )


def _converted(call: Call) -> Callable[[Reader], bool]:
    terms = call.params.many("converted_terms")
    return lambda reader: any(entry.fate.term.term_id in terms for entry in reader.entries)


_SEARCHES: Final[dict[str, Callable[[Call], Callable[[Reader], bool]]]] = {
    "uid": _uid,
    "email": _email,
    "name": _name,
    "q": _any_text,
    "has_active_subscription": _subscribes,
    "has_access": _reads,
    "access_to_resources": _reads_one_of,
    "converted_terms": _converted,
}
