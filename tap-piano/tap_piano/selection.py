"""Which columns of the log may leave: those that the setting ``columns`` names and the files have.

Meltano selects ``*.*`` unless told otherwise, which would sweep in names, addresses and telephone numbers. So
the catalog can only narrow what ``columns`` allows, never widen it (decision 5: personal data is off unless
asked for).
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from piano_engage_common.stops import ConfigRefused
from singer_sdk.singerlib.catalog import Metadata

from tap_piano.columns import BY_NAME, GROUPS, REPLICATION_KEY, REQUIRED, TRAITS, Column, column_of, fingerprint

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from singer_sdk.singerlib.catalog import MetadataMapping

    from tap_piano.files import Export, Header

TRAITS_WORD, ALL_WORD = "traits", "all"


class Selection:
    """The columns that may leave.

    Args:
        setting: ``"traits"``, ``"all"``, or names of columns (as properties or as headers), by commas or listed;
            the two words may stand among them.
        unknown: columns of the files that are not in the table of known ones.
        exports: the files with their headers.
        with_aid: whether every row carries the application id.
        elsewhere: names that other streams know; here they mean nothing.
        complete: whether *exports* are all that will come; else a name may be one of a file still to be had.

    Attributes:
        wants_unknown: whether columns may be wanted that are not in the table of known ones.

    Raises:
        ConfigRefused: the setting names a column that neither is known nor stands in a file.
    """

    def __init__(
        self,
        setting: str | Sequence[str],
        unknown: Mapping[str, Column],
        exports: Sequence[tuple[Export, Header]],
        *,
        with_aid: bool,
        elsewhere: Collection[str] = (),
        complete: bool = True,
    ) -> None:
        """Resolve the setting."""
        self.wants_unknown = False
        self._elsewhere = elsewhere
        self._complete = complete
        self._columns = {**BY_NAME, **unknown}
        self._headers = [header for _, header in exports]
        words = setting.split(",") if isinstance(setting, str) else setting
        self._named: set[str] = set()
        self._allowed = {*REQUIRED, REPLICATION_KEY}
        if with_aid:
            self._allowed.add("aid")
        stripped = [word.strip() for word in words]
        for word in filter(None, stripped):
            if not self._is_left_out(word):
                self._allow(word)
        self._allowed -= {column_of(word[1:]).name for word in stripped if self._is_left_out(word)} - {*REQUIRED}

    @staticmethod
    def _is_left_out(word: str) -> bool:
        """Whether *word* names a known column that is not wanted."""
        return word.startswith("-") and column_of(word[1:]).name in BY_NAME

    def _allow(self, word: str) -> None:
        if word == TRAITS_WORD:
            self._allowed.update(TRAITS)
        elif word == ALL_WORD:
            self.wants_unknown = True
            self._allowed.update(self._columns)
        elif (name := column_of(word).name) in self._columns:
            self._named.add(name)
            self._allowed.add(name)
        elif name in self._elsewhere:
            return
        elif not self._complete:
            self.wants_unknown = True
        else:
            near = difflib.get_close_matches(name, self._columns, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = f"columns: {word!r} is neither a known column nor one of the export.{hint}"
            raise ConfigRefused(msg)

    def groups(self, names: Iterable[str]) -> list[str]:
        """List the attribute groups that bring the columns of these *names*, or all where unknown ones are wanted."""
        if self.wants_unknown:
            return list(GROUPS)
        wanted = {BY_NAME[name].group for name in names if name in BY_NAME}
        return [group for group in GROUPS if group in wanted | {GROUPS[0], BY_NAME[REPLICATION_KEY].group}]

    def apply(self, metadata: MetadataMapping, *, by_default: bool) -> None:
        """Write the selection into the *metadata* of the stream.

        Args:
            metadata: changed in place.
            by_default: say what is selected unless a catalog says otherwise; else only take away.
        """
        for breadcrumb, entry in metadata.items():
            if not breadcrumb:
                continue
            name = breadcrumb[1]
            allowed = name in self._allowed and (not self._headers or name == "aid" or self._is_in_files(name))
            if name in REQUIRED:
                entry.inclusion = Metadata.InclusionType.AUTOMATIC
            elif by_default:
                entry.selected_by_default = allowed
            elif not allowed:
                entry.inclusion = Metadata.InclusionType.AVAILABLE
                entry.selected = False

    def mistyped(self) -> dict[str, str]:
        """Return headers that are nearly the name of a wanted column that their file lacks, with that name."""
        found: dict[str, str] = {}
        for header in self._headers:
            wanted = {
                fingerprint(BY_NAME[one].header): one for one in self._allowed & BY_NAME.keys() if one not in header
            }
            for column in header.columns:
                if column.group == "unknown" and column.name not in self._named:
                    near = difflib.get_close_matches(fingerprint(column.header), wanted, n=1, cutoff=0.85)
                    found |= {column.header: BY_NAME[wanted[near[0]]].header} if near else {}
        return found

    def warn_of_missing(self, logger: logging.Logger) -> None:
        """Say in one line which wanted columns no file has: they are left out, which is not the same as blank."""
        expected = {
            name
            for name in self._allowed & self._columns.keys()
            if name in self._named or self._columns[name].group == "DEFAULT"
        }
        missing = sorted(
            self._columns[name].header for name in expected if not all(name in header for header in self._headers)
        )
        if missing:
            logger.warning("subscription_log: the export lacks the column(s) %s", ", ".join(missing))
        personal = sorted(name for name in self._allowed & BY_NAME.keys() if BY_NAME[name].personal)
        if personal:
            logger.warning("subscription_log: personal columns are selected: %s", ", ".join(personal))

    def _is_in_files(self, name: str) -> bool:
        return any(name in header for header in self._headers)
