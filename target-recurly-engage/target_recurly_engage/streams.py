"""The streams that may come: what each holds by its role, and which traits a stream of users brings.

Settings say it. The types that they leave open come from the stream's schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name
from singer_sdk import typing as th

from target_recurly_engage.catalogue import KEPT
from target_recurly_engage.traits import USER_ID, Kind, Trait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from target_recurly_engage.problems import Problems

SUBSCRIPTIONS_ROLE: Final = "subscriptions"
USERS_ROLE: Final = "users"
RECONCILE_ROLE: Final = "reconcile"
ROLES: Final = (SUBSCRIPTIONS_ROLE, USERS_ROLE, RECONCILE_ROLE, *KEPT)

STREAMS: Final = th.Property(
    "streams",
    th.ObjectType(
        additional_properties=th.ObjectType(
            th.Property("role", th.StringType, required=True, allowed_values=list(ROLES)),
            th.Property("user_id", th.StringType(min_length=1)),
            th.Property(
                "traits",
                th.ArrayType(
                    th.CustomType(
                        {
                            "type": ["string", "object"],
                            "properties": {
                                "name": {"type": "string"},
                                "type": {"enum": [kind.value for kind in Kind if kind is not Kind.MONEY]},
                            },
                            "required": ["name"],
                            "additionalProperties": False,
                        }
                    )
                ),
            ),
        )
    ),
    default={
        "subscription_log": {"role": SUBSCRIPTIONS_ROLE},
        "subscriptions": {"role": RECONCILE_ROLE},
        **{role: {"role": role} for role in KEPT},
    },
    title="Streams",
    description=(
        "What each stream holds. The role `subscriptions` is Piano's log; the role `users` is any stream with "
        "one row a reader: `user_id` names the property with his id, `traits` lists the properties that are sent, "
        "as names or as `{name, type}`. The roles `promotions`, `promo_codes` and `terms` are what the publisher "
        "sells (docs/promotions.md); the role `reconcile` is Piano's API list of subscriptions, which is only "
        "compared (`recurly-engage reconcile`). No stream has to come; what does not stand here is left alone."
    ),
)
"""The setting of that name."""


@dataclass(frozen=True, slots=True)
class UsersStream:
    """A stream with one row a reader, of any tap.

    Attributes:
        stream: its name.
        user_id: the property that names the reader.
        traits: the properties that are sent.
        typed: names of those whose type the settings say.
    """

    stream: str
    user_id: str
    traits: tuple[Trait, ...]
    typed: frozenset[str] = frozenset()

    @property
    def table(self) -> str:
        """Name, quoted, of the table in the ledger that holds the rows."""
        return name(f"users_{self.stream}")


def streams_of(config: Mapping[str, Any], role: str) -> list[str]:
    """List the streams to which the settings give *role*."""
    return sorted(stream for stream, given in config["streams"].items() if (given or {}).get("role") == role)


def users_of(stream: str, given: Mapping[str, Any], problems: Problems) -> UsersStream | None:
    """Read of the setting ``streams`` what it says of one with the role ``users``."""
    traits, typed = [], set()
    for one in given.get("traits") or []:
        entry = {"name": one} if isinstance(one, str) else one
        if "type" in entry:
            typed.add(entry["name"])
        traits.append(Trait(entry["name"], Kind(entry.get("type", Kind.STRING)), stream=stream))
    if not traits:
        problems.add(f"streams: {stream}: traits", "is missing. Name the properties that may be sent; nothing else is")
        return None
    return UsersStream(stream, given.get("user_id", USER_ID), tuple(traits), frozenset(typed))


def kinds_of(properties: Mapping[str, Any]) -> dict[str, Kind]:
    """Read types from the JSON schema of a stream."""
    return {name: _kind(schema or {}) for name, schema in properties.items()}


def _kind(schema: Mapping[str, Any]) -> Kind:
    branches = [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]
    types = {one for branch in branches for one in _types(branch.get("type"))}
    if "boolean" in types:
        return Kind.BOOLEAN
    if types & {"integer", "number"}:
        return Kind.NUMBER
    return Kind.DATE if any(branch.get("format") in {"date", "date-time"} for branch in branches) else Kind.STRING


def _types(given: object) -> list[str]:
    return [given] if isinstance(given, str) else [str(one) for one in given] if isinstance(given, list) else []
