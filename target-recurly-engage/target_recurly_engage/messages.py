"""Standard input: Singer messages, one a line, checked before anything is made of them.

No line is shown in a message or a log: there are people in it.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections import Counter
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final

from piano_engage_common.stops import InputRefused
from singer_sdk.singerlib.encoding import SimpleSingerReader
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MEMBERS: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    "SCHEMA": {"stream": (str,), "schema": (dict,)},
    "RECORD": {"stream": (str,)},
    "BATCH": {"stream": (str,), "encoding": (dict,), "manifest": (list,)},
    "ACTIVATE_VERSION": {"stream": (str,), "version": (int, Decimal)},
    "STATE": {"value": (object,)},
}
"""The types of messages, and the members that each must have; ``record`` is judged with its stream."""

_SHOWN_TYPE: Final = re.compile(r"[A-Z_]{1,30}")
_RECORD_OF: Final = re.compile(rb'\{\s*"type"\s*:\s*"RECORD"\s*,\s*"stream"\s*:\s*"([^"\\]+)"')
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


NO_NUMBER: Final = object()
"""Stands for ``NaN`` and ``Infinity``, which Python writes although JSON does not have them."""


class MessageReader(SimpleSingerReader):
    """Reads messages as bytes, whatever the locale is.

    Attributes:
        line: the message that was read last, as the line it came in.
        odd: there is :data:`NO_NUMBER` in it.
        skip: asked about a RECORD that cannot be read, by its stream; True skips it.
    """

    def __init__(self) -> None:
        """Begin at the first line."""
        super().__init__()
        self.line = b""
        self.odd = False
        self.skip: Callable[[str], bool] = lambda _stream: False
        self._number = 0

    @override
    def process_lines(
        self, file_input: IO[str] | None, callbacks: dict[str, Callable[[dict[str, Any]], None]]
    ) -> Counter[str]:
        """Read all messages and pass each to the callback of its type.

        Raises:
            InputRefused: a line is no message of Singer.
        """
        counts: Counter[str] = Counter()
        for line in self._lines(file_input or sys.stdin):
            message = self._message(line)
            if message is not None:
                counts[message["type"]] += 1
                callbacks[message["type"]](message)
        return counts

    def _lines(self, source: IO[str]) -> Iterator[bytes]:
        """Yield the lines that are not blank, without their ends."""
        for self._number, raw in enumerate(getattr(source, "buffer", source), start=1):
            line: bytes = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
            if self._number == 1:
                if line.startswith(_UTF_16):
                    raise self._utf_16()
                line = line.removeprefix(codecs.BOM_UTF8)
            if line := line.strip():
                yield line

    def _message(self, line: bytes) -> dict[str, Any] | None:
        """Parse and check one message; None for one that is skipped."""
        self.odd = False
        try:
            message = json.loads(line.decode(), parse_float=Decimal, parse_constant=self._constant)
        except UnicodeDecodeError as e:
            raise (
                self._utf_16()
                if b"\0" in line
                else self._refused(f"a line is not UTF-8 (byte {e.start + 1} of it)", "Let the tap write UTF-8.")
            ) from None
        except (ValueError, RecursionError) as e:
            if self._is_skipped(line):
                return None
            if b"\0" in line:
                raise self._utf_16() from None
            raise self._unreadable(e, len(line)) from None
        self._check(message)
        self.line = line
        return message  # type: ignore[no-any-return]

    def _constant(self, _word: str) -> object:
        self.odd = True
        return NO_NUMBER

    def _is_skipped(self, line: bytes) -> bool:
        found = _RECORD_OF.match(line)
        return bool(found and line.endswith(b"}")) and self.skip(found[1].decode(errors="replace"))  # type: ignore[index]

    def _check(self, message: object) -> None:
        if not isinstance(message, dict) or "type" not in message:
            raise self._refused("a line is no Singer message", "Is it a tap that writes there?")
        kind = message["type"]
        members = MEMBERS.get(kind) if isinstance(kind, str) else None
        if members is None:
            shown = f"of type {kind}" if isinstance(kind, str) and _SHOWN_TYPE.fullmatch(kind) else "of another type"
            raise self._refused(
                f"a message is {shown}, which Singer does not have (it has {', '.join(MEMBERS)})",
                "Let the tap write nothing else to standard output.",
            )
        for name, types in members.items():
            if name not in message or not isinstance(message[name], types) or isinstance(message[name], bool):
                raise self._refused(f"a {kind} has no member {name!r}, or one of a wrong type", "Correct the tap.")
        if kind == "SCHEMA":
            self._check_schema(message["schema"], message.get("key_properties"))
        if kind == "BATCH" and not all(
            isinstance(one, str) for one in (message["encoding"].get("format"), *message["manifest"])
        ):
            raise self._refused("a BATCH names no format, or a file by no text", "Correct the tap.")

    def _check_schema(self, schema: Mapping[str, Any], keys: object) -> None:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not all(isinstance(one, dict) for one in properties.values()):
            raise self._refused("the schema of a SCHEMA has no object 'properties' of objects", "Correct the tap.")
        if keys is not None and not (isinstance(keys, list) and all(isinstance(one, str) for one in keys)):
            raise self._refused("the 'key_properties' of a SCHEMA are no list of names", "Correct the tap.")

    def _unreadable(self, error: Exception, size: int) -> InputRefused:
        if isinstance(error, json.JSONDecodeError):
            return self._refused(f"a line is no JSON (character {error.pos:,} of {size:,})", "Did the tap break off?")
        what = (
            "objects or lists nested too deep" if isinstance(error, RecursionError) else "a number of too many digits"
        )
        return self._refused(f"a line holds {what}", "Correct the tap.")

    def _utf_16(self) -> InputRefused:
        return self._refused(
            "the text is UTF-16 and not UTF-8", "Let the tap, or the shell that redirects it, write UTF-8."
        )

    def _refused(self, problem: str, remedy: str) -> InputRefused:
        return InputRefused(f"standard input, line {self._number:,}: {problem}. {remedy}")
