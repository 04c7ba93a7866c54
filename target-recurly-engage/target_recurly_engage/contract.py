"""The contract: which traits may be sent, where each comes from, and how its values are written.

Settings make it; what they do not tell of a stream of users, the types, comes from the stream's schema, and is kept in
the ledger. Nothing that does not stand in the contract leaves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name
from piano_engage_common.stops import ConfigRefused

from target_recurly_engage.traits import NAMES, TRAITS, USER_ID, Kind, Trait, Wording

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUBSCRIPTIONS_ROLE: Final = "subscriptions"
USERS_ROLE: Final = "users"
ALL: Final = "all"
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBERS: Final = frozenset({Kind.NUMBER, Kind.MONEY})


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


@dataclass(frozen=True, slots=True)
class Contract:
    """What may be sent.

    Attributes:
        wording: how values are written.
        own: traits of the primary subscription.
        users: streams of users, by name.
    """

    wording: Wording
    own: tuple[Trait, ...] = TRAITS
    users: tuple[UsersStream, ...] = ()

    @property
    def traits(self) -> tuple[Trait, ...]:
        """All of them, those of the subscriptions first."""
        return (*self.own, *(trait for stream in self.users for trait in stream.traits))

    def stream(self, stream: str) -> UsersStream:
        """Give the stream of users of that name."""
        return next(one for one in self.users if one.stream == stream)

    def with_kinds(self, kinds: Mapping[str, Kind]) -> Contract:
        """Give the contract with these types for traits of streams of users, where the settings do not say them."""

        def mended(stream: UsersStream) -> UsersStream:
            open_ones = {trait: kind for trait, kind in kinds.items() if trait not in stream.typed}
            traits = (replace(trait, kind=open_ones.get(trait.name, trait.kind)) for trait in stream.traits)
            return replace(stream, traits=tuple(traits))

        return replace(self, users=tuple(map(mended, self.users)))


def contract_of(config: Mapping[str, Any]) -> Contract:
    """Read the target's settings.

    Raises:
        ConfigRefused: a trait is not known, has a name that Engage would not take, or comes from two streams.
    """
    streams = {stream: given for stream, given in config["streams"].items() if (given or {}).get("role") == USERS_ROLE}
    contract = Contract(
        wording=_wording(config),
        own=_own(config["traits"]),
        users=tuple(_users(stream, given) for stream, given in sorted(streams.items())),
    )
    seen: dict[str, str] = dict.fromkeys((USER_ID, *NAMES), "the subscriptions")
    for trait in contract.traits:
        if trait.stream is not None:
            if other := seen.get(trait.name):
                msg = f"streams: {trait.name} of {trait.stream} is a trait of {other} already. Leave it out of one."
                raise ConfigRefused(msg)
            seen[trait.name] = trait.stream
    return _with_thresholds(contract, config["thresholds"])


def _wording(config: Mapping[str, Any]) -> Wording:
    return Wording(
        zone=config["timezone"],
        clear_string=config["clear_string"],
        clear_number=f"{Decimal(str(config['clear_number'])).normalize():f}",
        clear_boolean=str(config["clear_boolean"]).lower(),
        clear_date=date.fromisoformat(config["clear_date"]).isoformat(),
        max_length=int(config["max_value_length"]),
    )


def words(given: str | Iterable[str]) -> list[str]:
    """Read a setting that takes names by commas or as a list."""
    return [word.strip() for word in (given.split(",") if isinstance(given, str) else given) if word.strip()]


def _own(given: str | Iterable[str]) -> tuple[Trait, ...]:
    names = words(given)
    if unknown := set(names) - {ALL, *NAMES}:
        msg = f"traits: {', '.join(sorted(unknown))} is no trait. There are: {', '.join(NAMES)}; or {ALL!r}."
        raise ConfigRefused(msg)
    return TRAITS if ALL in names else tuple(trait for trait in TRAITS if trait.name in names)


def _users(stream: str, given: Mapping[str, Any]) -> UsersStream:
    traits, typed = [], set()
    for one in given.get("traits") or []:
        entry = {"name": one} if isinstance(one, str) else one
        if not _KEY.fullmatch(entry["name"]):
            msg = (
                f"streams: {stream}: {entry['name']!r} is no name for a trait. Letters, digits and underscores, please."
            )
            raise ConfigRefused(msg)
        if "type" in entry:
            typed.add(entry["name"])
        traits.append(Trait(entry["name"], Kind(entry.get("type", Kind.STRING)), stream=stream))
    if not traits:
        msg = f"streams: {stream}: traits: is missing. Name the properties that may be sent; nothing else is."
        raise ConfigRefused(msg)
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


def _with_thresholds(contract: Contract, given: Mapping[str, Any]) -> Contract:
    """Have the traits that *given* names told only where they cross its numbers."""
    for trait in given:
        if trait not in {one.name for one in contract.traits} | set(NAMES):
            msg = f"thresholds: {trait} is no trait that is sent."
            raise ConfigRefused(msg)

    def mended(trait: Trait) -> Trait:
        if trait.name not in given:
            return trait
        if trait.stream is None and trait.kind not in _NUMBERS:
            msg = f"thresholds: {trait.name} is no number."
            raise ConfigRefused(msg)
        try:
            steps = sorted({float(one) for one in given[trait.name] or []})
        except (TypeError, ValueError) as e:
            msg = f"thresholds: {trait.name}: takes a list of numbers, like [30, 90]."
            raise ConfigRefused(msg) from e
        return replace(trait, drifts=True, thresholds=tuple(steps))

    return replace(
        contract,
        own=tuple(map(mended, contract.own)),
        users=tuple(replace(one, traits=tuple(map(mended, one.traits))) for one in contract.users),
    )
